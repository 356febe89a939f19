"""The trainer's promises beside exactness: what it refuses, what it survives, what it writes."""

import errno
import json
import math
import os
import shutil
import signal
import sysconfig
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from simclr_dist.config import Config
from simclr_dist.data.loading.batch import Batch
from simclr_dist.data.loading.batches import ViewBatches
from simclr_dist.distributed.processes import Processes
from simclr_dist.errors import UserError
from simclr_dist.run.kept import Kept
from simclr_dist.run.metrics_log import MetricsLog, last_metrics, read_metrics, read_records, write_run_facts
from simclr_dist.training import batches_here, pretraining, trainer
from simclr_dist.training.preflight import check_machine
from tests.support.poison import poisoned
from tests.support.processes import final_state, losses, pretrain_here, run_distributed, tiny_config


def pretrain(config: Config) -> trainer.Outcome:
    return pretraining.pretrain(config, Processes())


def photographs(folder: Path, count: int = 16) -> Path:
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(count):
        Image.fromarray(random.integers(0, 256, (12, 10, 3), dtype=np.uint8)).save(folder / f"{number:02d}.png")
    return folder


def on_folder(tmp_path: Path, *overrides: str) -> Config:
    return tiny_config(
        tmp_path,
        "recipe.data.source=folder",
        f"recipe.data.path={tmp_path / 'photographs'}",
        "recipe.global_batch_images=8",
        *overrides,
    )


@pytest.mark.parametrize("machine", ["machine.views_on_device=true", "machine.renderer=torchvision"])
def test_who_renders_the_views_changes_no_loss(tmp_path, machine):
    found = []
    for name, override in (("plain", "machine.images_per_chunk=0"), ("other", machine)):
        folder = tmp_path / name
        folder.mkdir()
        pretrain(tiny_config(folder, "machine.stop_after_steps=4", "recipe.data.image_size=16", override))
        found.append(losses(folder / "run"))
    assert len(found[0]) == 4
    assert found[0] == pytest.approx(found[1], rel=1e-3)


def test_every_step_is_told_with_every_metric(tmp_path):
    config = tiny_config(tmp_path, "machine.stop_after_steps=3", "recipe.method.loss_scale=2")
    assert pretrain(config) == trainer.Outcome(steps_done=3, total_steps=88, signal=0)
    lines = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [line["step"] for line in lines] == [1, 2, 3]
    first, line = lines[0], lines[-1]
    assert set(first) - set(line) == {"rank_me"}
    assert 1 < first["rank_me"] <= 16
    assert set(line) == {
        "step", "epoch", "loss", "contrastive_top1", "contrastive_top5", "positive_rank_mean", "embedding_std",
        "mutual_information_bound", "learning_rate", "gradient_norm", "images_per_second", "data_wait_share",
        "step_seconds", "processes",
    }  # fmt: skip
    # The bound is of the mean NT-Xent, whatever the recipe's scale.
    assert line["mutual_information_bound"] == pytest.approx(math.log(63) - line["loss"] / 2)
    assert all(math.isfinite(value) for value in line.values())
    assert 0 < line["data_wait_share"] < 1
    assert line["images_per_second"] == pytest.approx(32 / line["step_seconds"])
    assert list((tmp_path / "run" / "tensorboard").iterdir())


def test_a_run_folder_of_another_recipe_is_refused_with_the_keys_that_differ(tmp_path):
    pretrain(tiny_config(tmp_path, "machine.stop_after_steps=1"))
    before = sorted((tmp_path / "run").rglob("*"))
    with pytest.raises(UserError) as refused:
        pretrain(tiny_config(tmp_path, "recipe.seed=5", "recipe.views.hue=0.1"))
    assert "recipe.seed is 0 there and 5 here" in str(refused.value)
    assert "recipe.views.global.hue is 0.2 there and 0.1 here" in str(refused.value)
    assert sorted((tmp_path / "run").rglob("*")) == before


def test_the_same_images_may_have_moved_but_other_images_are_refused(tmp_path):
    photographs(tmp_path / "photographs")
    assert pretrain(on_folder(tmp_path, "machine.stop_after_steps=1")).steps_done == 1
    shutil.move(tmp_path / "photographs", tmp_path / "elsewhere")
    moved = f"recipe.data.path={tmp_path / 'elsewhere'}"
    assert pretrain(on_folder(tmp_path, moved)).steps_done == 4
    (tmp_path / "elsewhere" / "00.png").rename(tmp_path / "elsewhere" / "new.png")
    with pytest.raises(UserError, match="the images differ"):
        pretrain(on_folder(tmp_path, moved))


def test_a_checkpoint_from_before_a_new_key_counts_as_its_default(tmp_path):
    from simclr_dist.run import checkpoint

    pretrain(tiny_config(tmp_path, "machine.stop_after_steps=1"))
    state = final_state(tmp_path / "run")
    del state["recipe"]["views"]["global"]["solarize_probability"]
    checkpoint.save(tmp_path / "run" / "checkpoints", state, 1, keep=3)
    assert pretrain(tiny_config(tmp_path, "machine.stop_after_steps=2")).steps_done == 2
    with pytest.raises(UserError, match=r"solarize_probability is 0\.0 there and 0\.5 here"):
        pretrain(tiny_config(tmp_path, "recipe.views.solarize_probability=0.5"))


def test_broken_images_are_named_and_replaced_up_to_the_stated_share(tmp_path):
    folder = photographs(tmp_path / "photographs")
    (folder / "03.png").write_bytes(b"no image")
    pretrain(on_folder(tmp_path, "machine.max_broken_image_share=0.1"))
    listed = (tmp_path / "run" / "broken_images.txt").read_text()
    assert listed.startswith("3\t03.png: UnidentifiedImageError")
    assert len(listed.splitlines()) == 1


def _two_processes_with_broken_images(config: Config) -> str:
    try:
        pretrain_here(config)
    except UserError as error:
        return str(error)
    return "accepted"


def test_too_many_broken_images_stop_all_processes_with_the_state_saved(tmp_path):
    folder = photographs(tmp_path / "photographs")
    (folder / "03.png").write_bytes(b"no image")
    messages = run_distributed(2, _two_processes_with_broken_images, on_folder(tmp_path, "recipe.epochs=3"))
    assert all("1 of 16 images are broken, more than machine.max_broken_image_share (0.001)" in m for m in messages)
    assert final_state(tmp_path / "run")["step"] == len(losses(tmp_path / "run")) < 2


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_follows_float32(tmp_path, precision):
    for name in ("float32", precision):
        pretrain(
            tiny_config(
                tmp_path,
                f"machine.run_dir={tmp_path / name}",
                f"machine.precision={name}",
                "machine.stop_after_steps=4",
            )
        )
    assert losses(tmp_path / precision) == pytest.approx(losses(tmp_path / "float32"), rel=0.02)
    state = final_state(tmp_path / precision)
    assert state["model"]["encoder.backbone.conv1.weight"].dtype == torch.float32
    assert bool(state["scaler"]) == (precision == "float16")


def test_a_step_that_gradient_scaling_skips_is_told_as_skipped(tmp_path):
    config = tiny_config(
        tmp_path, "machine.precision=float16", "recipe.method.loss_scale=1.0e4", "machine.stop_after_steps=2"
    )
    pretrain(config)
    lines = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [(line["gradient_norm"], line.get("skipped")) for line in lines] == [(None, 1.0)] * 2


def test_the_precision_may_change_from_float16_and_back_at_every_start(tmp_path):
    """Also where the run then goes back to a point from before the change."""
    scales = []
    for precision, stop in (("float16", 1), ("float32", 4), ("float16", 5)):
        config = tiny_config(
            tmp_path, f"machine.precision={precision}", f"machine.stop_after_steps={stop}",
            "recipe.anomalies.on_not_finite=go_back", "recipe.anomalies.rollback_every_steps=3",
        )  # fmt: skip
        poisoned((5,), lambda features: features * math.nan, lambda config=config: pretrain(config))
        scales.append(final_state(tmp_path / "run")["scaler"].get("scale"))
    assert [bool(scale) for scale in scales] == [True, False, True]
    assert read_metrics(tmp_path / "run" / "metrics.jsonl")[4]["returned_to_step"] == 3


def test_channels_last_changes_rounding_only(tmp_path):
    for name in ("false", "true"):
        pretrain(
            tiny_config(
                tmp_path,
                f"machine.run_dir={tmp_path / name}",
                f"machine.channels_last={name}",
                "machine.stop_after_steps=3",
            )
        )
    assert losses(tmp_path / "true") == pytest.approx(losses(tmp_path / "false"), rel=1e-5)


@pytest.mark.parametrize(
    ("overrides", "processes", "message"),
    [
        (["recipe.global_batch_images=30"], 4, "cannot be shared equally by 4 processes; start 3"),
        (["recipe.global_batch_images=24", "recipe.batch_norm_group_images=6"], 3, "groups of 6 images"),
        (["machine.images_per_chunk=8"], 1, "machine.images_per_chunk: chunks of 8 images .* machine.recompute=all"),
        (["machine.images_per_chunk=12"], 1, "machine.images_per_chunk: 12 does not divide"),
        (["machine.compile=true", "machine.recompute=blocks"], 1, "machine.recompute: torch.compile cannot trace"),
        (["machine.device=cuda"], 1, "torch sees no GPU"),
        (["recipe.global_batch_images=4000"], 1, "more than the data set's 1437 images"),
    ],
)
def test_a_machine_that_cannot_compute_the_recipe_is_refused_before_anything_is_written(
    tmp_path, overrides, processes, message, monkeypatch
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=message):
        pretraining.pretrain(tiny_config(tmp_path, *overrides), Processes(count=processes))
    assert not (tmp_path / "run").exists()


def test_compiling_without_a_compiler_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UserError, match=r"machine\.compile"):
        pretrain(tiny_config(tmp_path, "machine.compile=true"))


@pytest.mark.parametrize(("compiler", "missing"), [("no-such-compiler", "C compiler"), ("sh", "Python's headers")])
def test_compiling_on_a_gpu_without_a_c_compiler_or_pythons_headers_is_refused(
    tmp_path, monkeypatch, compiler, missing
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    monkeypatch.setenv("CC", compiler)
    monkeypatch.setenv("CXX", "no-such-compiler")  # which a GPU's kernels do not need
    config = tiny_config(tmp_path, "machine.compile=true")
    with pytest.raises(UserError, match=rf"^machine\.compile: .*{missing}"):
        check_machine(config, 1)
    monkeypatch.setenv("CC", "sh")
    (tmp_path / "Python.h").touch()
    check_machine(config, 1)


def test_metrics_of_steps_after_the_checkpoint_and_half_lines_are_dropped(tmp_path):
    lines = [json.dumps({"step": step, "loss": 1.0}) for step in range(1, 8)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + '\n{"step": 8, "lo')
    log = MetricsLog(tmp_path, steps_done=5)
    log.write({"step": 6, "epoch": 1, "loss": math.inf})
    log.close()
    written = read_metrics(tmp_path / "metrics.jsonl")
    assert [line["step"] for line in written] == [1, 2, 3, 4, 5, 6]
    assert written[-1]["loss"] is None
    assert not (tmp_path / "metrics.jsonl.damaged").exists()


GARBAGE = [
    b"\xff\xfe\x80garbage", b"5", b"null", b'{"a": 1}', b'{"step": "7"}', b'{"step": true}',
    b'{"step": 7, "loss": "x"}',
    b"[" * 100_000, b'{"step": 4, "lo{"step": 5, "loss": 1.0}', b'{"step": ' + b"9" * 5000 + b"}",
]  # fmt: skip


@pytest.mark.parametrize("at", [0, 3, 5])
def test_a_line_of_the_metrics_that_is_no_record_is_set_aside_alone(tmp_path, at):
    good = [json.dumps({"step": step, "loss": 1.0}).encode() for step in range(1, 6)]
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"\n".join([*good[:at], *GARBAGE, *good[at:]]) + b"\n")
    assert last_metrics(path)["step"] == 5
    MetricsLog(tmp_path, steps_done=5).close()
    assert path.read_bytes().splitlines() == good
    assert (tmp_path / "metrics.jsonl.damaged").read_bytes().splitlines() == GARBAGE


def test_a_start_of_a_long_run_neither_holds_nor_parses_its_metrics(tmp_path, monkeypatch):
    numbers = {f"metric {number}": 1 / number for number in range(1, 20)}
    lines = [json.dumps({"step": step, "epoch": 1, **numbers, "online_knn_top1": 0.5}) for step in range(1, 4001)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "best_online_knn_top1_step_000000700.pt").touch()
    parsed, loads = [], json.loads
    monkeypatch.setattr(json, "loads", lambda line: parsed.append(line) or loads(line))
    tracemalloc.start()
    try:
        MetricsLog(tmp_path, steps_done=3990).close()
        kept = Kept(tmp_path, 0, "online_knn_top1")
        kept.begin(3990, tmp_path / "checkpoints")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert not kept.is_better(3991, {"online_knn_top1": 0.4})
    assert kept.is_better(3992, {"online_knn_top1": 0.6})
    assert (tmp_path / "metrics.jsonl").read_text().splitlines() == lines[:3990]
    assert peak < 2**20 < 4000 * len(lines[0])
    assert len(parsed) == 2  # of the best, and of the last step


def test_numbers_that_are_not_finite_in_metrics_of_another_tool_are_read_as_null(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": NaN, "a": -Infinity, "b": null}\n{"step": 2, "loss": 1e999, "a": 0}\n')
    assert read_records(path) == (
        [{"step": 1, "loss": None, "a": None, "b": None}, {"step": 2, "loss": None, "a": 0}],
        [],
    )
    assert last_metrics(path)["loss"] is None


def test_metrics_that_cannot_be_read_now_stop_the_start_and_lose_no_line(tmp_path, monkeypatch):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n')

    opens = Path.open

    def opened(asked: Path, *arguments: Any, **named: Any) -> Any:
        if asked == path:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return opens(asked, *arguments, **named)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", opened)
        with pytest.raises(UserError, match=f"^{path}: cannot be read: Input/output error"):
            MetricsLog(tmp_path, steps_done=1)
    assert read_metrics(path) == [{"step": 1}]


def test_a_disk_that_is_full_at_the_start_is_told_with_the_run_folder(tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("simclr_dist.run.metrics_log.write_atomically", full)
    with pytest.raises(UserError, match=r"^machine\.run_dir: .* cannot be written: No space left on device; make room"):
        write_run_facts(tmp_path, 5, {})


@pytest.mark.parametrize(
    ("number", "cure"),
    [(errno.ENOSPC, "make room, then start again"), (errno.EACCES, "get the permission"), (errno.EIO, "mend the sto")],
)
def test_a_run_folder_that_takes_no_config_is_told_with_a_cure_that_fits(tmp_path, monkeypatch, number, cure):
    def refused(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("simclr_dist.run.folder.write_atomically", refused)
    with pytest.raises(UserError, match=f"run cannot be written: {os.strerror(number)}; {cure}"):
        pretrain(tiny_config(tmp_path, "machine.stop_after_steps=1"))


def test_a_batch_that_cannot_be_made_ends_the_run_with_the_steps_done_saved(tmp_path, monkeypatch):
    read = ViewBatches.__getitem__

    def fails_later(batches: ViewBatches, step: int) -> Batch:
        if step == 2:
            raise UserError("the storage fails")
        return read(batches, step)

    monkeypatch.setattr(ViewBatches, "__getitem__", fails_later)
    with pytest.raises(UserError, match=r"^the storage fails; .*step_000000002\.pt"):
        pretrain(tiny_config(tmp_path))
    assert final_state(tmp_path / "run")["step"] == len(losses(tmp_path / "run")) == 2


def test_a_signal_while_a_batch_is_waited_for_ends_the_run_with_the_steps_done_saved(tmp_path, monkeypatch):
    def stopped_later(batches: ViewBatches, steps: range, *, is_stopped: Any, **_: Any) -> Iterator[Batch]:
        yield from (batches[step] for step in steps[:2])
        os.kill(os.getpid(), signal.SIGTERM)
        assert is_stopped() == signal.SIGTERM

    monkeypatch.setattr(batches_here, "load_views", stopped_later)
    assert pretrain(tiny_config(tmp_path)) == trainer.Outcome(2, 88, signal.SIGTERM)
    assert final_state(tmp_path / "run")["step"] == 2
