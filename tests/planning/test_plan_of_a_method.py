"""The plan of a method that is not SimCLR: its queue, bank, targets, collectives and what it does after the update."""

from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
from torch._subclasses.fake_tensor import FakeTensorMode

from simclr_dist.config import Config
from simclr_dist.config.registry import method_keys
from simclr_dist.data.loading.batch import blank_batch
from simclr_dist.data.sources.identity import blank_images
from simclr_dist.distributed.watchdog.progress import begin_collective
from simclr_dist.errors import UserError
from simclr_dist.models.batch_norm import norms_of
from simclr_dist.planning.checkpoints import checkpoint_bytes
from simclr_dist.planning.communication import Assumptions, step_traffic
from simclr_dist.planning.fakes import fake_processes
from simclr_dist.planning.memory import StepMemory, Variant
from simclr_dist.planning.plan import make_plan
from simclr_dist.planning.report import report
from simclr_dist.planning.traced_step import StepTrace, traced_step
from simclr_dist.planning.tracker import Sent, StepTracker
from simclr_dist.run import checkpoint
from simclr_dist.run.contents import contents
from tests.support.steps import allocated, bytes_of, optimizer_tensors, training_step
from tests.support.toy_method import DIM

# Of GPUs so small that libraries would take all.
ASSUMED = Assumptions(
    flops_per_second=1e12, bandwidth=25e9, node_bandwidth=200e9, workspace_bytes=0, communicator_bytes=0
)
IMAGES, QUEUE = 1437, 8192
CPU = torch.device("cpu")


@pytest.fixture
def config() -> Config:
    return _config("ToyMethod")


def _config(name: str) -> Config:
    config = Config()
    recipe = config.recipe
    recipe.global_batch_images, recipe.batch_norm_group_images = 64, 8
    recipe.epochs, recipe.warmup_epochs = 4, 1
    recipe.data.source, recipe.data.image_size = "digits", 32
    recipe.encoder.name, recipe.encoder.stem, recipe.encoder.width = "resnet10", "small", 0.5
    recipe.method = method_keys(f"tests.support.toy_method:{name}")
    recipe.views = {}
    config.recipe = replace(recipe)
    config.machine.channels_last = True
    return config


@pytest.fixture(scope="module")
def trace() -> StepTrace:
    """Of one of four processes; tracing is what takes long here."""
    config = _config("ToyMethod")
    return traced_step(config.recipe, config.machine, 16, 4, IMAGES)


def test_the_traced_peak_with_chunks_is_what_the_allocator_gave_a_real_step(config):
    config.machine.images_per_chunk = 32  # without chunks: test_planning.py
    step, batch = training_step(config, IMAGES), blank_batch(config.recipe, 64, CPU)
    step(batch, 0)
    peak, _ = allocated(lambda: step(batch, 1))
    norms = [buffer for norm in norms_of(step.method) for buffer in norm.buffers()]
    resting = bytes_of([*step.method.parameters(), *step.method.buffers(), *norms, *batch.views.values()])
    resting += bytes_of(optimizer_tensors(step.optimizer))
    trace = traced_step(config.recipe, config.machine, 64, 1, IMAGES)
    # At its peak the real one holds oneDNN's copies of a layer's gradients too, 3.4 MB with chunks.
    assert trace.peak_bytes == pytest.approx(resting + peak, rel=0.06)


def test_a_queue_and_a_bank_are_state_and_not_copied_and_what_is_not_trained_has_no_momentum(config, trace):
    step = training_step(config, IMAGES)
    step(blank_batch(config.recipe, 64, CPU), 0)
    norms = bytes_of(buffer for norm in norms_of(step.method) for buffer in norm.buffers())
    assert trace.at_peak["state"] == bytes_of(step.method.buffers()) - norms
    assert trace.at_peak["state"] == pytest.approx(4 * DIM * (QUEUE + IMAGES), rel=1e-4)
    assert trace.at_peak["weights"] == bytes_of(step.method.parameters()) + 2 * norms
    # Neither the teacher's parameters nor those with a rate of their own that freezes them.
    assert trace.at_peak["optimizer state"] == bytes_of(optimizer_tensors(step.optimizer))
    assert trace.at_peak["gradients"] == bytes_of(p for p in step.method.parameters() if p.requires_grad)


@pytest.mark.parametrize("policy", ["stop", "go_back"])
def test_the_checkpoint_holds_the_queue_and_the_bank(config, tmp_path, policy):
    config.recipe.anomalies.on_not_finite = policy
    step = training_step(config, IMAGES)
    for number in range(config.recipe.anomalies.window_steps):
        step.anomalies.judge(number, {"loss": 100.0, "gradient_norm": 1.0})  # the true one is no jump
    step(blank_batch(config.recipe, 64, CPU), 0)
    if step.rollback_point:
        step.rollback_point.take_when_due(0)
    written = contents(step.state, config.recipe, blank_images(IMAGES))
    path = checkpoint.save(tmp_path, written, step=1, keep=1)
    assert checkpoint_bytes(config, IMAGES) == path.stat().st_size > 4 * DIM * (QUEUE + IMAGES)


def test_what_an_image_outside_the_chunk_holds_is_that_of_the_traced_step(trace):
    views = 2 * 3 * 32**2 + 3 * 3 * 16**2
    # One query and three crops with their gradients, one key without.
    assert trace.held_bytes == views + 4 * DIM * (2 * (1 + 3) + 1)


def test_a_loss_that_outgrows_the_encoder_is_planned_over_all_images_of_the_share(config):
    config.recipe.method.queue = 1 << 18
    memory = StepMemory(config.recipe, config.machine, IMAGES, [32, 16], exact=32)
    chunked = traced_step(config.recipe, replace(config.machine, images_per_chunk=16), 32, 2, IMAGES)
    assert chunked.at_peak["loss"] > chunked.peak_bytes / 3
    assert chunked.peak_bytes == pytest.approx(memory.peak_bytes(32, Variant(images_per_chunk=16)), rel=0.1)
    assert chunked.flops == pytest.approx(memory.flops(32, Variant(images_per_chunk=16)), rel=0.03)


def test_what_the_loss_makes_is_told_from_what_the_encoder_makes_in_both_passes(config, trace):
    recipe = replace(config.recipe, method=replace(config.recipe.method, queue=2 * QUEUE))
    small, large = trace.loss_bytes, traced_step(recipe, config.machine, 16, 4, IMAGES).loss_bytes
    # Logits of 16 images (before and after the key's is put beside them, their log-softmax, gradients), the rows that
    # they are taken of.
    rows, logits = 4 * DIM * QUEUE, 4 * 16 * QUEUE
    assert (large - small - rows) / logits == pytest.approx(3, abs=0.6)


def test_the_collectives_of_loss_and_update_are_counted_by_their_labels(config, trace):
    traces = [trace, traced_step(config.recipe, config.machine, 32, 2, IMAGES)]
    for images, processes in ((16, 4), (8, 8)):  # the second on the line through the traced ones
        traffic = {kind.sent.label: kind for kind in step_traffic(traces, images, ASSUMED)}
        others = processes - 1
        assert traffic["keys of the queue"].wire_bytes == pytest.approx(others * images * DIM * 4)
        assert traffic["samples of the bank"].wire_bytes == pytest.approx(others * images * 8)
        assert traffic["losses of the processes"].wire_bytes == pytest.approx(others * 2 * 4)
        trained = sum(p.numel() for p in training_step(config, IMAGES).method.parameters() if p.requires_grad)
        gradients = traffic["gradients (backward pass)"].wire_bytes
        assert gradients == pytest.approx(2 * others / processes * 4 * trained)
        assert "running statistics of batch norm" in traffic


def test_a_collective_that_no_rule_knows_is_counted_as_everything_to_everyone(trace):
    tracker = StepTracker(local_images=16)
    with fake_processes(4), FakeTensorMode(), tracker:
        begin_collective("something new")
        dist.reduce(torch.zeros(10), 0)
    sent = Sent(label="something new", collective="reduce", images=64)
    assert (tracker.collectives, tracker.payload) == ({sent: 1}, {sent: 40})
    trace = replace(trace, collectives={sent: 1}, payload={sent: 40})
    assert [kind.wire_bytes for kind in step_traffic([trace], 16, ASSUMED)] == [3 * 40]


def test_the_whole_plan_of_it_is_shown(config):
    text = report(make_plan(config, 4, 10**9, IMAGES, ASSUMED, others=[8]))
    assert "all_gather: keys of the queue" in text
    assert "state 4.9" in text


def test_a_step_that_needs_the_values_of_tensors_is_one_line():
    config = _config("ReadsValues")
    with pytest.raises(UserError, match="ReadsValues cannot be planned: its step needs the values") as error:
        traced_step(config.recipe, config.machine, 16, 4, IMAGES)
    assert "\n" not in str(error.value)
