"""A method, a source and an encoder from outside the project: the very texts of docs/methods.md, and what users get
wrong in them."""

import importlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import simclr_dist
from simclr_dist import load_encoder
from simclr_dist.config import load_config
from simclr_dist.config.loading import to_dict
from simclr_dist.config.recipe import Data
from simclr_dist.config.registry import method_class
from simclr_dist.errors import UserError
from simclr_dist.evaluation.features import extract_features
from simclr_dist.methods.build import build_method
from simclr_dist.run import checkpoint
from simclr_dist.weights.export import export
from tests.support.commands import run_command
from tests.support.images import open_source
from tests.support.processes import final_state, losses, relative_error

DOCS = Path(simclr_dist.__file__).parents[1] / "docs" / "methods.md"
CONFIG = """
recipe:
  method: {name: "mine.byol:BYOL", teacher_momentum: 0.9, predictor_dim: 16, projection: {output_dim: 16}}
  data: {source: "mine.arrays:open_source", path: photos, image_size: 8}
  encoder: {name: "mine.mixer:ConvMixer", width: 0.0625, stem: small}
  global_batch_images: 32
  batch_norm_group_images: 16
  epochs: 2
  warmup_epochs: 1
  optimizer: {base_learning_rate: 0.2, learning_rate_scaling: none}
machine: {loader_workers: 0, threads_per_process: 1, save_every_steps: 2, device: cpu}
"""
STEPS = 16


def files_of_docs() -> dict[str, str]:
    """Name -> text of every file that the page shows whole."""
    blocks = re.findall(r"```python\n# (mine/\w+\.py)\n(.*?)```", DOCS.read_text(), re.DOTALL)
    assert [name for name, _ in blocks] == ["mine/byol.py", "mine/arrays.py", "mine/mixer.py"]
    return dict(blocks)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A user's folder: the package of the docs, arrays of digits, a config."""
    folder = tmp_path_factory.mktemp("user")
    for name, text in files_of_docs().items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    (folder / "photos").mkdir()
    for split, images in (("train", 256), ("test", 100)):
        digits = open_source(Data(source="digits"), split)
        pixels = np.stack([digits.read(sample).permute(1, 2, 0).numpy() for sample in range(images)])
        np.save(folder / "photos" / f"{split}.npy", pixels)
        np.save(folder / "photos" / f"{split}_labels.npy", digits.labels[:images])
    (folder / "mine.yaml").write_text(CONFIG)
    return folder


@pytest.fixture
def here(place, monkeypatch) -> Path:
    """The user's folder as the working folder, with its package importable."""
    monkeypatch.chdir(place)
    monkeypatch.syspath_prepend(str(place))
    return place


def start(place: Path, *arguments: str) -> subprocess.Popen:
    """``simclr-dist ARGUMENTS`` as the docs say it: in the folder, which is on PYTHONPATH."""
    path = os.pathsep.join((str(place), str(DOCS.parents[1])))
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "simclr_dist", *arguments],
        cwd=place,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


@pytest.fixture(scope="module")
def run_dir(place) -> Path:
    """A run on 2 processes that was killed after its first checkpoint, and finished on 1."""
    folder = place / "runs" / "mine"
    killed = start(place, "pretrain", "mine.yaml", "--processes", "2")
    while not list(folder.glob("checkpoints/*.pt")):
        assert killed.poll() is None, killed.communicate()[0]
        time.sleep(0.002)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    resumed = start(place, "pretrain", "mine.yaml")
    told = resumed.communicate()[0]
    assert f"finished: {STEPS} steps" in told, told
    return folder


def test_a_run_killed_on_2_processes_and_resumed_on_1_ends_as_one_that_was_never_stopped(capsys, here, run_dir):
    whole = here / "runs" / "whole"
    status, _, told = run_command(
        capsys, "pretrain", "mine.yaml", f"machine.run_dir={whole}", "machine.images_per_chunk=16"
    )
    assert status == 0, told
    ours, theirs = final_state(run_dir), final_state(whole)
    assert ours["step"] == theirs["step"] == STEPS
    # In all: biases that a batch norm takes away again are rounding errors, which no two runs share.
    ours, theirs = (torch.cat([each.double().flatten() for each in run["model"].values()]) for run in (ours, theirs))
    assert relative_error(ours, theirs) < 1e-4
    assert np.allclose(losses(run_dir), losses(whole), rtol=1e-4)


def test_the_teacher_moves_and_is_not_the_student(here, run_dir):
    model = final_state(run_dir)["model"]
    begin = build_method(load_config("mine.yaml").recipe, images=256).state_dict()
    key = "backbone.patches.0.weight"
    assert not torch.equal(model[f"teacher.0.{key}"], begin[f"teacher.0.{key}"])
    assert not torch.equal(model[f"teacher.0.{key}"], model[f"encoder.{key}"])


@pytest.mark.parametrize("method", [["knn"], ["finetune", "--shares", "100", "--epochs", "1", "--with-baseline"]])
def test_its_encoder_is_evaluated(capsys, here, run_dir, method):
    status, table, told = run_command(capsys, "evaluate", run_dir, *method)
    assert (status, [line for line in told.splitlines() if " images" not in line]) == (0, [])
    assert "mine.arrays:open_source, 100 test images" in table


def test_it_is_evaluated_on_another_source_from_outside(capsys, here, run_dir):
    on = ("--on", "mine.arrays:open_source", f"recipe.data.path={here / 'photos'}")
    assert run_command(capsys, "evaluate", run_dir, "knn", *on)[0] == 0


@pytest.mark.parametrize("to", ["safetensors", "onnx"])
def test_its_encoder_and_head_are_exported_with_equal_outputs(capsys, here, run_dir, to):
    if to == "onnx":
        for library in ("onnx", "onnxscript", "onnxruntime"):
            pytest.importorskip(library)
    status, told, refused = run_command(capsys, "export", run_dir, "--to", to, "--with-head")
    assert status == 0, refused
    file = run_dir / f"encoder_{STEPS:09d}_with_head.{to}"
    assert str(file) in told
    if to == "safetensors":
        images = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
        back, loaded = load_encoder(file), load_encoder(run_dir)
        assert torch.equal(back.encoder(images), loaded.encoder(images))
        assert torch.equal(back.projection(back.encoder(images)), loaded.projection(loaded.encoder(images)))


@pytest.mark.parametrize("to", ["torchvision", "timm"])
def test_a_layout_of_resnets_refuses_it(capsys, here, run_dir, to):
    pytest.importorskip(to)
    status, _, told = run_command(capsys, "export", run_dir, "--to", to)
    assert status == 2
    assert "no layout of mine.mixer:ConvMixer, an encoder of your own; take --to safetensors or onnx" in told


def test_it_is_planned(capsys, here):
    status, told, refused = run_command(capsys, "plan", "mine.yaml", "--gpus", "2", "--gpu-memory", "16GB")
    assert status == 0, refused
    assert told


def test_it_is_verified(capsys, here):
    status, told, refused = run_command(capsys, "verify", "mine.yaml")
    assert status == 0, refused + told


def test_its_keys_are_explained_and_its_views_drawn(capsys, here, tmp_path):
    status, table, _ = run_command(capsys, "config", "--explain", "mine.byol:BYOL")
    assert status == 0
    assert "recipe.method.teacher_momentum: float = 0.996" in table
    assert "Share of the teacher that stays" in table
    assert run_command(capsys, "preview", "mine.yaml", "--out", tmp_path / "views.png")[0] == 0


# ---------------------------------------------------------------------------------------------- features


def test_features_of_a_list_are_those_of_evaluate_to_the_bit_whatever_the_form_of_the_images(here, run_dir, tmp_path):
    source = open_source(load_encoder(run_dir).recipe.data, "test")
    encoder = load_encoder(str(run_dir))
    pixels = [source.read(sample) for sample in range(100)]
    for number in (0, 1):
        Image.fromarray(pixels[number].permute(1, 2, 0).numpy()).save(tmp_path / f"{number}.png")
    given = [
        str(tmp_path / "0.png"),
        Image.open(tmp_path / "1.png"),
        pixels[2].permute(1, 2, 0).numpy(),
        *pixels[3:],
    ]
    features = encoder.features(given)
    assert np.array_equal(features.numpy(), extract_features(encoder.encoder, source, encoder.image_size))
    assert features.dtype == torch.float32
    assert not features.requires_grad
    assert features.std() > 0.01


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ("missing.png", "every image is needed, and one is broken: missing.png: "),
        (torch.rand(3, 8, 8), r"image 0: a tensor of torch.float32 \(3, 8, 8\); give uint8"),
        (np.zeros((8, 8), dtype=np.uint8), r"image 0: an array of uint8 \(8, 8\); give uint8"),
        (7, "image 0: int is no path, PIL image, array or tensor"),
    ],
)
def test_features_refuse_what_is_no_image(here, run_dir, image, expected):
    with pytest.raises(UserError, match=expected):
        load_encoder(run_dir).features([image])


def test_importing_the_package_loads_no_torch():
    code = "import simclr_dist, sys; assert 'torch' not in sys.modules; assert 'load_encoder' in simclr_dist.__all__"
    subprocess.run([sys.executable, "-c", code], check=True)


# ---------------------------------------------------------------------------------------------- mistakes


def changed(here: Path, file: str, old: str, new: str) -> str:
    """A module of the docs with one change, under a name of its own."""
    text = files_of_docs()[f"mine/{file}.py"]
    assert old in text
    name = f"{file}_{abs(hash((old, new)))}"
    (here / "mine" / f"{name}.py").write_text(text.replace(old, new))
    importlib.invalidate_caches()
    return f"mine.{name}"


MOMENTUM = "        teacher_momentum: float = number(0.996, low=0.0, high=1.0)"
CLASS = "class BYOL(Method)"
CONFIGS = [
    ("missing.byol:BYOL", "'missing.byol:BYOL' cannot be imported: No module named 'missing'; install it, or put its"),
    ("mine.byol:BYOLL", "mine.byol has no 'BYOLL'; look at the part behind the colon"),
    ("mine.mixer:ConvMixer", "'mine.mixer:ConvMixer' is no method: it must be a class made from simclr_dist.methods"),
    ("nobody", "'nobody' is not one of simclr"),
    (("    @dataclass(kw_only=True)\n", ""), "Config is no dataclass; write @dataclass(kw_only=True) above it"),
    ((MOMENTUM, "        steps: list[str] = field(default_factory=list)"), "Config.steps is list[str]; a key is"),
    ((MOMENTUM, "        warm: float | None = None"), "Config.warm is float | None; a key is int"),
    ((MOMENTUM, "        teacher_momentum: float"), "Config.teacher_momentum has no default"),
    (("Config(MethodKeys)", "Config"), "Config must be made from simclr_dist.methods.base.MethodKeys"),
    (('"agreement": Metric', '"loss": Metric'), "METRICS has 'loss', which every method has"),
    (('role="headline"', 'role="collapse"'), "METRICS has two of the role 'collapse', agreement and embedding_std"),
    (("    METRICS", "    needs = frozenset({'sounds'})\n    METRICS"), "needs has 'sounds'; there is color, geom"),
    (("    METRICS", "    def views(config):\n        return {}\n\n    METRICS"), "views() must be a classmethod"),
    ((CLASS, "1 / 0\n\n\n" + CLASS), "importing mine.byol_"),
]  # fmt: skip


@pytest.mark.parametrize(("mistake", "expected"), CONFIGS)
def test_a_method_that_a_recipe_cannot_name_is_refused_when_the_config_is_read(capsys, here, mistake, expected):
    name = mistake if isinstance(mistake, str) else f"{changed(here, 'byol', *mistake)}:BYOL"
    (here / "wrong.yaml").write_text(f"recipe: {{method: {{name: '{name}'}}}}\n")
    status, _, told = run_command(capsys, "config", "wrong.yaml")
    assert status == 2
    assert told.count("\n") == 1
    assert "recipe.method.name: " in told
    assert expected in told


LOSS = '        return {"loss": 4 - 4 * cosine, '
RULES = [
    ("byol", ("self.encoder = make", "self.trunk = make"), "recipe.method.name=mine.byol_"),  # as it then uses it
    ("byol", ("make.norm(hidden)", "nn.BatchNorm1d(hidden)"), "predictor.1 is torch's BatchNorm1d, whose statistics"),
    ("byol", (LOSS, "        return {"), "loss() returns no 'loss'"),
    ("byol", (LOSS, LOSS + '"more": cosine.detach(), '), "METRICS does not have 'more'"),
    ("byol", (LOSS, "        return 4 - 4 * cosine\n" + LOSS), "loss() returns Tensor, not a dict"),
    ("byol", (".requires_grad_(False)", ""), "the loss does not reach the parameter teacher.0"),
    ("byol", ('        return {"prediction"', "        return z\n" + '        return {"prediction"'), "embed()"),
    ("byol", ("self.predictor(z).unflatten(0, views.shape[:2])", "self.predictor(z)"), "embed() returns 'pre"),
    ("byol", ('global_batch(embeddings["prediction"])', 'self.predictor(embeddings["prediction"].flatten(0, 1))'
        '.unflatten(0, (-1, 2))'), "the trained parameter predictor.0.weight acts in loss()"),
    ("byol", ("        views = batch", "        raise RuntimeError('no')\n        views = batch"), "fails on black"),
    ("mixer", ("self.output_dim = dim", "pass"), "ConvMixer has no output_dim"),
    ("mixer", ("self.output_dim = dim", "self.output_dim = 99"), "makes (2, 16) of images (2, 3, 8, 8), not (2, 99)"),
    ("mixer", ("x.mean((2, 3))", "x.flatten(5)"), "fails on images (2, 3, 8, 8): IndexError"),
    ("mixer", ("norm_layer(dim)", "nn.BatchNorm2d(dim)"), "is torch's BatchNorm2d"),
    ("mixer", ("class ConvMixer(nn.Module)", "def ConvMixer(keys, norm_layer):\n    pass\n\n\nclass Other(nn.Module)"),
     "is no encoder: it must be a class of torch.nn.Module"),
    ("arrays", ("read(self", "get(self"), "Arrays has no read()"),
    ("arrays", (".permute(2, 0, 1)", ".permute(2, 0, 1) / 255"), "read(0) returns torch.float32 numbers, not uint8 of"),
    ("arrays", (".permute(2, 0, 1)", ""), "read(0) returns the shape (8, 8, 3), not (3, height, width)"),
    ("arrays", (".astype(np.int64)", ".astype(np.int32)"), "labels are an array of int32; they must be a numpy array"),
    ("arrays", ("labels.npy\")", "labels.npy\")[1:]"), "labels have the shape (255,); one for each of the 256 images"),
    ("arrays", ("self.labels.max() + 1)", "3)"), "labels run from 0 to 9, with 3 classes; they count from 0"),
    ("arrays", ('f"{split}.npy"', 'f"{split}.npz"'), "fails at opening 'pretrain': FileNotFoundError"),
]  # fmt: skip
KEY = {"byol": ("method", "BYOL"), "mixer": ("encoder", "ConvMixer"), "arrays": ("data", "open_source")}


@pytest.mark.parametrize(("file", "mistake", "expected"), RULES)
def test_a_part_that_breaks_a_rule_is_refused_in_one_line_before_the_first_step(
    capsys, here, tmp_path, file, mistake, expected
):
    key, name = KEY[file]
    wrong = f"recipe.{key}.{'source' if key == 'data' else 'name'}={changed(here, file, *mistake)}:{name}"
    status, _, told = run_command(capsys, "pretrain", "mine.yaml", wrong, f"machine.run_dir={tmp_path / 'run'}")
    lines = [line for line in told.splitlines() if line.startswith("simclr-dist: ")]
    assert status == 2, told
    assert len(lines) == 1
    assert expected in lines[0]
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


@pytest.mark.parametrize("command", ["pretrain", "preview"])
def test_a_method_that_needs_labels_refuses_images_without(capsys, here, tmp_path, command):
    method = changed(here, "byol", "    METRICS", '    needs = frozenset({"labels"})\n    METRICS')
    source = changed(here, "arrays", "        self.classes = [", "        self.labels, self.classes = None, []  # [")
    status, _, told = run_command(
        capsys, command, "mine.yaml", f"recipe.method.name={method}:BYOL", f"recipe.data.source={source}:open_source",
        f"machine.run_dir={tmp_path / 'run'}",
    )  # fmt: skip
    assert status == 2
    assert f"{method}:BYOL needs labels, and the images of '{source}:open_source' for pretraining have none" in told


def test_recompute_is_refused_with_an_encoder_from_outside(capsys, here):
    status, _, told = run_command(capsys, "config", "mine.yaml", "machine.recompute=all")
    assert status == 2
    assert "machine.recompute: 'all' is for the ResNets of this project; mine.mixer:ConvMixer can call" in told


def test_an_export_of_a_resnet_is_read_without_the_package_of_its_method(here, tmp_path):
    module = changed(here, "byol", "Share of the teacher", "Part of the teacher")
    resnet = ["recipe.encoder.name=resnet10", "recipe.encoder.width=0.25"]
    recipe = load_config("mine.yaml", [f"recipe.method.name={module}:BYOL", *resnet]).recipe
    model = build_method(recipe, images=1).state_dict()
    checkpoint.save(tmp_path / "checkpoints", {"recipe": to_dict(recipe), "model": model}, step=7, keep=1)
    loaded = load_encoder(tmp_path)
    file = export(loaded, "safetensors", tmp_path / "encoder.safetensors").path
    (here / f"{module.replace('.', '/')}.py").unlink()
    del sys.modules[module]
    method_class.cache_clear()
    back = load_encoder(file)
    images = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    assert torch.equal(back.encoder(images), loaded.encoder(images))
    assert (back.recipe_known, back.steps_done, back.image_size) == (False, 7, 8)
    with pytest.raises(UserError, match=f"'{module}:BYOL' cannot be imported"):
        load_encoder(tmp_path)
