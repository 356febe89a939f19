"""What is found of an encoder on a GPU is what is found on a CPU; see tests/training/test_on_cuda.py."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.support.masked import write_folder

pytestmark = pytest.mark.cuda(pretended=True)
METHODS = (
    "knn", "lowshot --labels 5", "label-free --views 2", "probe --solver lbfgs", "probe --grid --epochs 1",
    "probe --solver sgd --epochs 1 --optimizer lars", "probe --solver sgd --epochs 1 --augment",
    "finetune --epochs 1 --shares 10 --from-layer 1", "baseline --epochs 1 --shares 10 --precision bfloat16",
    "segment --on set --images 4 --steps 2",
)  # fmt: skip
NUMBERS = ("mean", "rank_me", "alpha_req", "lidar")


@pytest.mark.parametrize("words", METHODS)
def test_each_method_finds_on_a_gpu_what_it_finds_on_a_cpu(run_dir, tmp_path, monkeypatch, run, words):
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path / "set", 6, ["ground", "one"])
    found = {}
    for device in ("cuda", "cpu"):
        status, out, told = run("evaluate", run_dir, *words.split(), "--device", device, "--debug")
        assert status == 0, told
        shutil.rmtree(run_dir / "features", ignore_errors=True)
        rows = json.loads(Path(out.splitlines()[-1]).read_text())["rows"]
        found[device] = [row[name] for row in rows for name in NUMBERS if name in row]
    assert found["cpu"]
    assert found["cuda"] == pytest.approx(found["cpu"], abs=0.01, rel=0.01)


def test_features_and_neighbours_on_a_gpu_are_a_cpus(run_dir, tmp_path, run):
    write_folder(tmp_path / "set", 6, ["ground", "one"])
    images = tmp_path / "set" / "images"
    features, pages = [], []
    for device in ("cuda", "cpu"):
        file, page = tmp_path / f"{device}.npz", tmp_path / f"{device}.html"
        for command in (
            ("features", run_dir, images, "--out", file),
            ("neighbours", run_dir, images, images / "3.jpg", "--out", page),
        ):
            status, _, told = run(*command, "--device", device, "--debug")
            assert status == 0, told
            shutil.rmtree(run_dir / "features")
        features.append(np.load(file)["features"])
        pages.append(page.read_text())
    np.testing.assert_allclose(features[0], features[1], rtol=1e-3, atol=1e-4)
    assert pages[0] == pages[1]
