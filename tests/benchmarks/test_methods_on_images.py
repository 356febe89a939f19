"""The comparison of methods on images: what it does again, and what its table says."""

import json
import sys
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

OPTIONS = {
    "source": "digits", "data": Path(), "images": 64, "methods": ["simclr", "byol"], "seeds": [0, 1], "epochs": 1,
    "batch": 32, "image_size": 8, "encoder": "resnet10", "width": 0.25, "device": "cpu", "precision": "float32",
    "rounds": 1, "workers": 0, "threads": 1, "override": [],
}  # fmt: skip


@pytest.fixture
def comparison(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """benchmarks/methods_on_images.py."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    import methods_on_images

    yield methods_on_images
    for name in ("methods_on_images", "methods_table", "image_recipes"):
        del sys.modules[name]


def left(out: Path, method: str, seed: int | None = None, **found: Any) -> None:
    (out / "rows").mkdir(exist_ok=True)
    name = method if seed is None else f"{method}_{seed}"
    (out / "rows" / f"{name}.json").write_text(json.dumps({"method": method, "seed": seed, **found}))


def test_what_is_there_is_not_done_again_and_what_failed_is(comparison, tmp_path):
    options = Namespace(**OPTIONS)
    names = [name for name, _, _ in comparison.wanted(tmp_path, options)]
    assert names == ["steps", "references", "simclr_0", "byol_0", "simclr_1", "byol_1"]
    (tmp_path / "steps.json").write_text(json.dumps({"simclr": {}, "byol": {}}))
    left(tmp_path, "untrained", knn=0.5)
    left(tmp_path, "simclr", 0, knn=0.8)
    left(tmp_path, "byol", 0, error="UserError: no")
    assert [name for name, _, _ in comparison.wanted(tmp_path, options)] == ["byol_0", "simclr_1", "byol_1"]


def test_a_folder_of_other_settings_is_refused(comparison, tmp_path):
    comparison.same_comparison(tmp_path, Namespace(**OPTIONS))
    with pytest.raises(SystemExit, match="--epochs 1"):
        comparison.same_comparison(tmp_path, Namespace(**{**OPTIONS, "epochs": 2}))


def test_the_table_has_means_over_seeds_ratios_of_rounds_failures_and_who_is_below_raw_pixels(comparison, tmp_path):
    comparison.same_comparison(tmp_path, Namespace(**OPTIONS))
    step = {"seconds": [1.0, 2.0, 4.0], "memory_bytes": 5e6}
    other = {"seconds": [2.0, 3.0, 12.0], "memory_bytes": 7e6}
    (tmp_path / "steps.json").write_text(json.dumps({"simclr": step, "byol": other}))
    found = {"probe": 0.9, "rank_of_features": 3.0, "rank_of_embeddings": 4.0, "needs": [], "views": 2}
    left(tmp_path, "raw pixels", knn=0.7, probe=0.8, rank_of_features=2.0)
    left(tmp_path, "simclr", 0, knn=0.8, **found)
    left(tmp_path, "simclr", 1, knn=0.9, **found)
    left(tmp_path, "byol", 0, knn=0.6, **found)
    left(tmp_path, "byol", 1, error="UserError: no")
    comparison.write_table(tmp_path)
    lines = (tmp_path / "table.md").read_text().splitlines()[4:]
    assert lines == [
        "| raw pixels | 1 | no | - | 70.00 | 80.00 | - | 2.0 | - | - | - |",
        "| simclr | 2 | no | 2 | 85.00 +- 7.07 | 90.00 +- 0.00 | 4.0 | 3.0 | 2.000 | 1.00 | 5 |",
        "| byol (below raw pixels) | 1 | no | 2 | 60.00 | 90.00 | 4.0 | 3.0 | 3.000 | 2.00 | 7 |",
        "| byol, seed 1 | failed: UserError: no |",
    ]
    assert len(json.loads((tmp_path / "table.json").read_text())["rows"]) == 5
