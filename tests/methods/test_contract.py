"""What every registered method promises by existing; a new one is proved by its line in the registry.

The runs of a method are made once: in 1 process whole, in 2 whole, resumed, and in chunks with a skipped step.
"""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist

from simclr_dist.config import Config
from simclr_dist.config.registry import METHODS
from simclr_dist.data.loading.batches import build_batches
from simclr_dist.data.loading.order import build_order
from simclr_dist.distributed.collectives import process_count, process_rank
from simclr_dist.distributed.data_parallel import data_parallel
from simclr_dist.distributed.processes import Processes
from simclr_dist.evaluation.features import extract_features
from simclr_dist.evaluation.knn import knn_accuracy
from simclr_dist.methods.build import build_method
from simclr_dist.models.batch_norm import norms_of
from simclr_dist.models.statistics_group import divide_batch_norm
from simclr_dist.planning.traced_step import traced_step
from simclr_dist.run import checkpoint
from simclr_dist.run.metrics_log import read_metrics
from simclr_dist.training.gradients import compute_gradients
from simclr_dist.verification.certificate import certify
from simclr_dist.weights.export import export
from simclr_dist.weights.read import load_encoder
from tests.support.images import open_source
from tests.support.methods import method_config
from tests.support.poison import poisoned
from tests.support.processes import (
    assert_bit_equal,
    final_state,
    losses,
    pretrain_here,
    relative_error,
    run_distributed,
)

STEPS, STOP = 3, 2
SKIPPED = STEPS + 1  # by the run in chunks, whose steps until then are those of the others
GROUP = 4
ROUNDING = 1e-3  # a running mean that is 0 but for rounding has no relative error
TRAINED = ("model", "optimizer", "scaler")


def config_of(name: str, folder: Path, *overrides: str) -> Config:
    """The method's small recipe for the runs of this module."""
    return method_config(
        name, folder, f"recipe.batch_norm_group_images={GROUP}", "recipe.anomalies.on_not_finite=skip",
        "recipe.encoder.width=0.125", "recipe.global_batch_images=16",  # a CPU's convolutions in float64 are slow
        "machine.precision=float64", f"machine.stop_after_steps={STEPS}", "machine.save_every_steps=1",
        f"machine.keep_checkpoints={SKIPPED + 1}", *overrides,
    )  # fmt: skip


def _gradients(config: Config, chunk_images: int) -> dict[str, torch.Tensor]:
    """Of the first step."""
    recipe, count = config.recipe, process_count()
    source = open_source(recipe.data)
    statistics = divide_batch_norm(GROUP, recipe.global_batch_images, count, chunk_images=chunk_images)
    method = build_method(recipe, len(source), statistics).double()
    batch = build_batches(config, source, build_order(recipe, len(source)), process_rank(), count)[0]
    compute_gradients(method, data_parallel(method, torch.device("cpu")), batch, chunk_images=chunk_images)
    return {key: parameter.grad.clone() for key, parameter in method.named_parameters() if parameter.grad is not None}


def _proved(config: Config, folder: Path) -> dict[str, Any]:
    """Run in each of some processes; what has no file is returned."""
    count, rank = process_count(), process_rank()

    def on(run: str, **machine: int) -> Config:
        return replace(config, machine=replace(config.machine, run_dir=str(folder / run), **machine))

    chunks = {0, GROUP} if GROUP * count < config.recipe.global_batch_images else {0}
    found: dict[str, Any] = {"gradients": {chunk: _gradients(config, chunk) for chunk in sorted(chunks)}}
    if count <= 2:
        pretrain_here(on("whole"))
    if count == 2:
        if rank == 0:
            _as_killed(folder / "whole", folder / "resumed")
        dist.barrier()
        pretrain_here(on("resumed"))
        in_chunks = on("chunks", images_per_chunk=GROUP, stop_after_steps=SKIPPED + 1)
        poisoned((SKIPPED,), lambda features: features * torch.inf, lambda: pretrain_here(in_chunks))
        # With batch norm over the whole batch, which the runs cannot have together with chunks.
        recipe = replace(config.recipe, batch_norm_group_images=0)
        found["checks"] = certify(recipe, Processes(rank, count, rank, count), torch.device("cpu"))
    return found


def _as_killed(run: Path, copy: Path) -> None:
    """A copy of a run as if it had been killed with a checkpoint of step STOP and none after it."""
    shutil.copytree(run, copy, symlinks=True)
    newer = [path for path in checkpoint.by_age(copy / "checkpoints") if checkpoint.step_in_name(path) > STOP]
    assert len(newer) == STEPS - STOP
    for path in newer:
        path.unlink()


@dataclass
class Proved:
    """The runs of one method."""

    name: str
    folder: Path
    found: dict[int, list[dict[str, Any]]]
    """Processes -> what each of them returned."""

    def run(self, processes: int, run: str) -> Path:
        return self.folder / str(processes) / run

    def after(self, processes: int, run: str, step: int) -> dict[str, Any]:
        state: dict[str, Any] = checkpoint.load(self.run(processes, run) / "checkpoints" / f"step_{step:09d}.pt")
        return state


@pytest.fixture(scope="module", params=METHODS)
def method(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Proved:
    folder, found = tmp_path_factory.mktemp(request.param), {}
    for count in (1, 2, 4):
        (folder / str(count)).mkdir()
        found[count] = run_distributed(count, _proved, config_of(request.param, folder), folder / str(count))
    return Proved(request.param, folder, found)


def test_gradients_are_those_of_one_process_whatever_the_processes_and_chunks(method):
    expected = method.found[1][0]["gradients"][0]
    assert expected
    for of_processes in method.found.values():
        for chunks in (gradients for of_process in of_processes for gradients in of_process["gradients"].values()):
            assert chunks.keys() == expected.keys()
            one, other = (torch.cat([each[key].flatten() for key in expected]) for each in (chunks, expected))
            assert relative_error(one, other) < 1e-10


@pytest.mark.parametrize("run", ["whole", "chunks"])
def test_weights_buffers_and_losses_of_two_processes_follow_those_of_one(method, run):
    for step in range(1, STEPS + 1):
        own, expected = method.after(2, run, step)["model"], method.after(1, "whole", step)["model"]
        assert own.keys() == expected.keys()
        for key, value in expected.items():
            difference = (own[key].double() - value.double()).norm() / value.double().norm().clamp_min(ROUNDING)
            assert difference < 1e-9, (step, key)
    assert losses(method.run(2, run))[:STEPS] == pytest.approx(losses(method.run(1, "whole")), rel=1e-9)
    runs = (method.run(2, run), method.run(1, "whole"))
    rank, expected_rank = (read_metrics(each / "metrics.jsonl")[0]["rank_me"] for each in runs)
    assert rank == pytest.approx(expected_rank, rel=1e-6)


def test_the_runs_move_every_trained_weight_so_that_to_agree_means_something(method):
    before, after = (method.after(1, "whole", step)["model"] for step in (1, STEPS))
    gradients = method.found[1][0]["gradients"][0]
    assert [key for key in gradients if torch.equal(before[key], after[key])] == []


def test_a_run_killed_in_the_middle_of_an_epoch_resumes_to_the_bit(method):
    resumed, undisturbed = (final_state(method.run(2, run)) for run in ("resumed", "whole"))
    assert_bit_equal(resumed, undisturbed)
    assert losses(method.run(2, "resumed")) == losses(method.run(2, "whole"))


def test_a_skipped_step_leaves_no_trace(method):
    before, skipped, next_step = (method.after(2, "chunks", step) for step in (SKIPPED - 1, SKIPPED, SKIPPED + 1))
    for part in TRAINED:
        assert_bit_equal(skipped[part], before[part], part)
    weight = next(iter(method.found[1][0]["gradients"][0]))
    assert not torch.equal(next_step["model"][weight], skipped["model"][weight])


@pytest.mark.parametrize("name", METHODS)
def test_the_update_leaves_running_statistics_to_the_batches_that_each_network_has_seen(name, tmp_path):
    """A teacher that took over its student's would be the same on any machine, and another one."""
    config = config_of(name, tmp_path)
    source = open_source(config.recipe.data)
    statistics = divide_batch_norm(GROUP, config.recipe.global_batch_images, 1)
    built = build_method(config.recipe, len(source), statistics).double()
    batch = build_batches(config, source, build_order(config.recipe, len(source)), 0, 1)[0]
    for trained in (parameter for parameter in built.parameters() if parameter.requires_grad):
        trained.data.mul_(1.5)  # a copy of a student that has not moved has its statistics too
    seen = compute_gradients(built, data_parallel(built, torch.device("cpu")), batch)
    before = [{key: buffer.clone() for key, buffer in norm.named_buffers()} for norm in norms_of(built)]
    with torch.no_grad():
        built.after_update(seen.embeddings, seen.targets, seen.batch, 0, STEPS)
    for norm, expected in zip(norms_of(built), before, strict=True):
        assert_bit_equal(dict(norm.named_buffers()), expected)


def test_the_checks_of_verify_hold(method):
    for checks in (of_process["checks"] for of_process in method.found[2]):
        assert len(checks) >= 9
        assert all(check.holds for check in checks), checks


def test_plan_traces_its_step(method, tmp_path):
    config = config_of(method.name, tmp_path, "recipe.batch_norm_group_images=0")  # groups are traced one by one
    trace = traced_step(config.recipe, config.machine, config.recipe.global_batch_images // 2, 2, 1437)
    assert trace.peak_bytes > trace.resting_bytes > 0
    assert trace.flops > 0


def test_export_and_evaluation_take_its_encoder(method, tmp_path):
    loaded = load_encoder(method.run(1, "whole"))
    stored = method.after(1, "whole", STEPS)["model"]
    for key, value in loaded.encoder.state_dict().items():
        assert torch.equal(value, stored[f"encoder.{key}"].to(value.dtype)), key
    to, file = ("torchvision", "encoder.pt") if loaded.architecture else ("safetensors", "encoder.safetensors")
    exported = export(loaded, to, tmp_path / file)
    digits = open_source(loaded.recipe.data)
    features, again = (
        extract_features(each.encoder, digits, loaded.image_size) for each in (loaded, load_encoder(exported.path))
    )
    assert np.array_equal(features, again)
    labels = digits.labels
    half = len(digits) // 2
    # Chance is 0.1; the encoder is narrow and has barely been trained.
    assert knn_accuracy(features[:half], labels[:half], features[half:], labels[half:]) > 0.3
