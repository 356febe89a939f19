"""A step whose passes are recorded is to the bit the step that is not; here with a recorder that needs no GPU."""

import copy
import math
from dataclasses import replace

import pytest
import torch

from simclr_dist.config import Config
from simclr_dist.data.loading.batch import blank_batch
from simclr_dist.distributed.collectives import process_rank
from simclr_dist.methods.simclr import SimCLR
from simclr_dist.models.statistics_group import StatisticsGroup
from simclr_dist.training.recorded import RecordedEmbedding, why_not
from simclr_dist.training.step import TrainingStep
from tests.support.poison import poisoned
from tests.support.processes import assert_bit_equal, run_distributed, tiny_config
from tests.support.rerun import Rerun
from tests.support.steps import noise_batch, training_step
from tests.support.toy_methods import Toy

CHUNKS = "machine.images_per_chunk=16"
CPU = torch.device("cpu")


def in_ddp(config: Config, recorder: Rerun | None) -> dict:
    """The state after three steps in each of several processes, which record before DDP, as a GPU's do."""
    torch.manual_seed(0)
    step = training_step(config, 64, parallel=False)
    if recorder:
        record(step, recorder)
    step.make_parallel()
    for number in range(3):
        step(noise_batch(config, process_rank() + 2 * number, step.local_images), number)
    assert not recorder or recorder.replays > 0
    return step.method.state_dict()


def record(step: TrainingStep, recorder: Rerun) -> None:
    """As the step itself does on a GPU."""
    chunk = step.config.machine.images_per_chunk
    blank = step.method.prepare(blank_batch(step.config.recipe, chunk or step.local_images, CPU))
    step.recorded = RecordedEmbedding(step.method, blank, step.config.machine, recorder, chunks=bool(chunk))
    step.method.embed = step.recorded


def states(config: Config, recorder: Rerun | None) -> dict:
    """Of a step, and all that each of four steps said."""
    torch.manual_seed(0)
    step = training_step(config, 64)
    if recorder:
        record(step, recorder)
    said = [step(noise_batch(config, number), number) for number in range(4)]
    optimizer = step.optimizer.state_dict()["state"]
    return {"method": step.method.state_dict(), "optimizer": optimizer, "said": dict(enumerate(said))}


@pytest.mark.parametrize(
    "overrides",
    [
        ("recipe.batch_norm_group_images=0",),
        ("recipe.batch_norm_group_images=8", CHUNKS),
        ("recipe.batch_norm_group_images=16", CHUNKS, "machine.precision=bfloat16"),
    ],
    ids=" ".join,
)
def test_recorded_steps_leave_the_same_bits_as_others(tmp_path, overrides):
    config = tiny_config(tmp_path, *overrides)  # every method: test_on_cuda.py
    recorder = Rerun()
    recorded = states(config, recorder)
    passes = 3 * 2 if CHUNKS in overrides else 2  # two chunks forward, forward and backward; or all at once
    assert recorder.replays == 4 * passes
    assert_bit_equal(recorded, states(config, None))


@pytest.mark.parametrize("chunks", [0, 8])
def test_two_processes_whose_steps_are_recorded_sum_the_same_gradients(tmp_path, chunks):
    config = tiny_config(tmp_path, "recipe.batch_norm_group_images=8", f"machine.images_per_chunk={chunks}")
    recorded, others = (run_distributed(2, in_ddp, config, recorder) for recorder in (Rerun(), None))
    assert_bit_equal(recorded[0], recorded[1])
    assert_bit_equal(recorded[0], others[0])


def test_a_recording_leaves_weights_statistics_and_random_numbers_as_they_were(tmp_path):
    config = tiny_config(tmp_path)
    step = training_step(config, 64)
    before = copy.deepcopy(step.method.state_dict())
    random = torch.get_rng_state()
    record(step, Rerun())
    assert_bit_equal(step.method.state_dict(), before)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(each.grad is None for each in step.method.parameters())


def test_another_size_or_mode_and_weights_that_moved_elsewhere_go_to_the_method(tmp_path):
    config = tiny_config(tmp_path)
    step, recorder = training_step(config, 64), Rerun()
    record(step, recorder)
    batch = noise_batch(config, 0)
    expected = type(step.method).embed(step.method, batch)["z"]
    assert torch.equal(step.method.embed(batch)["z"], expected)
    assert recorder.replays == 1
    step.method.embed(replace(batch, labels=None))  # of a source without classes
    assert recorder.replays == 2
    half = batch.split(len(batch) // 2)[0]
    assert len(step.method.embed(half)["z"]) == len(half)
    step.method.eval()
    assert torch.equal(step.method.embed(batch)["z"], type(step.method).embed(step.method, batch)["z"])
    step.method.train()
    weight = next(step.method.parameters())
    weight.data = 2 * weight.data
    assert torch.equal(step.method.embed(batch)["z"], type(step.method).embed(step.method, batch)["z"])
    assert recorder.replays == 2


def test_what_was_not_finite_is_looked_for_by_layers_that_are_called(tmp_path):
    config = tiny_config(tmp_path, "recipe.anomalies.on_not_finite=skip")
    step, recorder = training_step(config, 64), Rerun()
    record(step, recorder)
    with step.recorded.paused():
        step.compute_gradients(noise_batch(config, 0))
    assert recorder.replays == 0
    batch = noise_batch(config, 1)
    found = poisoned((1,), lambda features: features * math.inf, lambda: step(batch, 0))
    assert found["skipped"] == 1
    assert recorder.replays == 2  # of the step itself alone


@pytest.mark.parametrize(
    ("override", "statistics", "word"),
    [
        ("machine.cuda_graphs=false", StatisticsGroup(), "cuda_graphs"),
        ("machine.recompute=blocks", StatisticsGroup(), "recompute"),
        ("machine.debug_numerics=true", StatisticsGroup(), "debug_numerics"),
        ("machine.compile=true", StatisticsGroup(), "compile"),
        ("machine.deterministic=true", StatisticsGroup(spans_processes=True), "several processes"),
    ],
)
def test_what_cannot_be_recorded_is_named(tmp_path, override, statistics, word):
    assert word in why_not(tiny_config(tmp_path, override), SimCLR, statistics)
    assert why_not(tiny_config(tmp_path), SimCLR, StatisticsGroup()) == ""
    assert "recordable" in why_not(tiny_config(tmp_path), Toy, StatisticsGroup())  # nobody has looked at it
