"""The comparison of ways to a segmentation network: what it does again, and what its table says."""

import json
import sys
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SETTINGS = {
    "encoder": "resnet10", "width": 0.5, "output_stride": 8, "image_size": 64, "batch": 16, "precision": "float32",
    "pretrain_steps": 250, "steps": 250, "simclr_epochs": 8,
}  # fmt: skip


@pytest.fixture
def comparison(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """benchmarks/segmentation.py."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    import segmentation

    yield segmentation
    for name in ("segmentation", "segmentation_table", "same_settings"):
        del sys.modules[name]


def left(out: Path, job: Any, **found: Any) -> None:
    (out / "rows").mkdir(exist_ok=True)
    content = json.dumps({**job._asdict(), **found})
    (out / "rows" / sys.modules["segmentation_table"].file_name(**job._asdict())).write_text(content)


def test_what_is_there_is_not_done_again_and_what_failed_is(comparison, tmp_path):
    options = Namespace(seeds=[0, 1], images=[16, None], ways=["cross_entropy", "cross"], rates=[0.5, 2.0])
    jobs = comparison.wanted(tmp_path, options)
    assert len(set(jobs)) == 16
    assert [job.seed for job in jobs] == [0] * 8 + [1] * 8
    left(tmp_path, jobs[0], mean_iou=0.2)
    left(tmp_path, jobs[1], error="UserError: no")
    assert comparison.wanted(tmp_path, options) == jobs[1:]


def test_a_cell_has_the_better_rate_of_most_seeds_and_its_gain_over_cross_entropy_alone(comparison, tmp_path):
    job = comparison.Job
    left(tmp_path, job("cross_entropy", 16, 0, 0.5), mean_iou=0.10)
    left(tmp_path, job("cross_entropy", 16, 1, 0.5), mean_iou=0.12)
    left(tmp_path, job("cross_entropy", 16, 0, 2.0), mean_iou=0.20)
    left(tmp_path, job("cross_entropy", 16, 1, 2.0), mean_iou=0.22)
    left(tmp_path, job("cross_entropy", None, 0, 2.0), error="UserError: no")
    left(tmp_path, job("within", 16, 0, 0.5), mean_iou=0.90)
    left(tmp_path, job("within", 16, 0, 2.0), mean_iou=0.30)
    left(tmp_path, job("within", 16, 1, 2.0), mean_iou=0.34)
    (tmp_path / "settings.json").write_text(json.dumps(SETTINGS))
    sys.modules["segmentation_table"].write_table(tmp_path)
    assert (tmp_path / "table.md").read_text().splitlines()[3:] == [
        "| | 16 masks | all masks |",
        "| --- | --- | --- |",
        "| cross-entropy alone | 21.00 +- 1.41 (n 2, rate 2) | - |",
        "| pixel contrast, within | 32.00 +- 2.83 (+11.00, n 2, rate 2) | - |",
        "",
        "cross-entropy alone, all masks, seed 0: failed: UserError: no",
    ]
    assert len(json.loads((tmp_path / "table.json").read_text())["rows"]) == 8


def test_the_recipe_of_pixel_contrast_has_the_masks_that_are_learned_from_and_at_least_the_steps_asked_for(
    comparison, tmp_path
):
    options = Namespace(
        data=tmp_path, image_size=16, encoder="resnet10", width=0.125, stem="small", output_stride=8, batch=4,
        pretrain_steps=10, pretrain_rate=0.002, map_size=0, device="cpu", precision="float32", threads=1, workers=0,
    )  # fmt: skip
    recipe = comparison.config_of(comparison.Job("within", 6, 3, 0.5), tmp_path, options).recipe
    assert (recipe.data.labelled_images, recipe.method.loss, recipe.seed) == (6, "within", 3)
    assert (recipe.epochs, recipe.global_batch_images) == (10, 4)
