"""The plan: what it predicts is what the real objects are, and what it cannot promise it refuses."""

import re
from dataclasses import replace

import pytest
import torch
import yaml
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from simclr_dist.config import Config, load_config, to_dict
from simclr_dist.data.loading.batch import blank_batch
from simclr_dist.data.sources.identity import blank_images
from simclr_dist.errors import UserError
from simclr_dist.methods.build import build_method
from simclr_dist.models.batch_norm import norms_of
from simclr_dist.planning.allowance import bytes_for_tensors
from simclr_dist.planning.checkpoints import checkpoint_bytes
from simclr_dist.planning.communication import Assumptions, step_traffic
from simclr_dist.planning.line import Line
from simclr_dist.planning.memory import StepMemory, Variant
from simclr_dist.planning.plan import make_plan
from simclr_dist.planning.report import report, suggestion
from simclr_dist.planning.traced_step import traced_step
from simclr_dist.planning.tracker import StepTracker
from simclr_dist.run import checkpoint
from simclr_dist.run.contents import contents
from simclr_dist.units import columns, parse_bandwidth, parse_bytes, parse_count, parse_flops, show_bytes, show_seconds
from tests.support.commands import complaint, run_command
from tests.support.steps import allocated, bytes_of, optimizer_tensors, training_step

# Of GPUs so small that libraries would take all.
ASSUMED = Assumptions(
    flops_per_second=1e12, bandwidth=25e9, node_bandwidth=200e9, workspace_bytes=0, communicator_bytes=0
)
MIB, IMAGES = 1 << 20, 1437


@pytest.fixture
def config() -> Config:
    """A small ResNet for small images."""
    config = Config()
    config.recipe.global_batch_images = 64
    config.recipe.epochs, config.recipe.warmup_epochs = 4, 1
    config.recipe.data.source, config.recipe.data.image_size = "digits", 32
    config.recipe.encoder.name, config.recipe.encoder.stem = "resnet10", "small"
    config.recipe.encoder.width = 0.5
    return config


@pytest.mark.parametrize(
    ("parse", "text", "value"),
    [
        (parse_bytes, "80GB", 80e9),
        (parse_bytes, "80GiB", 80 * 2**30),
        (parse_bytes, "1.5 MB", 1.5e6),
        (parse_bytes, "7B", 7),
        (parse_bandwidth, "200Gb/s", 25e9),
        (parse_bandwidth, "25GB/s", 25e9),
        (parse_bandwidth, "200Gbps", 25e9),
        (parse_flops, "60T", 60e12),
        (parse_flops, "60TFLOP/s", 60e12),
        (parse_flops, "6e13", 60e12),
        (parse_count, "1.28M", 1_280_000),
        (parse_count, "1_281_167", 1_281_167),
    ],
)
def test_units(parse, text, value):
    assert parse(text, "--x") == value


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        (parse_bytes, "80"), (parse_bytes, "80Gb"), (parse_bytes, "80 gigabytes"), (parse_bytes, "0GB"),
        (parse_bytes, "-1GB"), (parse_bytes, ""), (parse_bytes, "1e400GB"), (parse_bandwidth, "200Gb"),
        (parse_bandwidth, "200"), (parse_flops, "60TB"), (parse_flops, "fast"), (parse_count, "1.5"),
        (parse_count, "0"), (parse_count, "many"),
    ],
)  # fmt: skip
def test_a_unit_that_cannot_be_meant_is_one_line_that_names_the_option(parse, text):
    with pytest.raises(UserError, match=r"^--option: ") as error:
        parse(text, "--option")
    assert "\n" not in str(error.value)


def test_sizes_are_shown_with_their_unit():
    assert [show_bytes(n) for n in (0, 999, 1500, 80e9, 123.4e6)] == ["0 B", "999 B", "1.5 kB", "80 GB", "123 MB"]


def test_a_line_goes_through_its_points():
    line = Line.fit([(1, 5.0), (3, 9.0), (5, 13.0)])
    assert (line.offset, line.slope) == pytest.approx((3, 2))
    assert line.worst([(2, 7.0), (4, 10.0)]) == pytest.approx(0.1)


def test_weights_gradients_optimizer_and_checkpoint_are_those_of_the_real_objects(config, tmp_path):
    for name, policies in (("lars", ("stop", "go_back")), ("lamb", ("stop",)), ("adamw", ("go_back",))):
        config.recipe.optimizer.name = name
        for policy in policies:
            config.recipe.anomalies.on_not_finite = policy
            step = training_step(config, IMAGES)
            for number in range(150):
                step.anomalies.judge(number, {"loss": 5 - number / 100, "gradient_norm": 1.0})
            step(blank_batch(config.recipe, 64, torch.device("cpu")), 0)
            if step.rollback_point:
                step.rollback_point.take_when_due(0)
            written = contents(step.state, config.recipe, blank_images(IMAGES))
            path = checkpoint.save(tmp_path, written, step=1, keep=1)
            assert checkpoint_bytes(config, IMAGES) == path.stat().st_size
        trace = traced_step(config.recipe, config.machine, 16, 4, IMAGES)
        norms = bytes_of(buffer for norm in norms_of(step.method) for buffer in norm.buffers())
        # The running statistics stand there twice: a step that is skipped puts them back.
        weights = bytes_of(step.method.parameters()) + 2 * norms
        state = bytes_of(step.method.buffers()) - norms
        optimizer, gradients = bytes_of(optimizer_tensors(step.optimizer)), bytes_of(step.method.parameters())
        assert trace.at_peak["weights"] == weights
        assert trace.at_peak["state"] == state
        assert trace.at_peak["gradients"] == gradients
        assert trace.at_peak["optimizer state"] == optimizer
        assert trace.resting_bytes == weights + state + optimizer + gradients


def test_operations_are_those_of_the_literature_and_of_torch(config):
    config.recipe.encoder.name, config.recipe.encoder.stem, config.recipe.encoder.width = "resnet18", "imagenet", 1.0
    config.recipe.data.image_size = 224
    trace = traced_step(config.recipe, config.machine, 4, 1, IMAGES)
    # 1.814e9 multiplications a forward pass (torchvision's table), two operations each, two views; the backward pass
    # costs two forward passes less the gradient of the pixels, and the head and the loss come on top.
    assert trace.flops / 4 == pytest.approx(1.814e9 * 2 * 2 * 3, rel=0.03)
    config.recipe.data.image_size = 32
    method = build_method(config.recipe, IMAGES)
    with FlopCounterMode(display=False) as counter:
        method(blank_batch(config.recipe, 4, torch.device("cpu"))).outputs["loss"].backward()
    assert traced_step(config.recipe, config.machine, 4, 1, IMAGES).flops == counter.get_total_flops()


@pytest.mark.parametrize("group", [0, 16])
def test_the_traced_peak_is_what_the_allocator_gave_a_real_step(config, group):
    config.recipe.batch_norm_group_images = group
    # Otherwise oneDNN copies a layer's tensors into a layout of its own for the time of a convolution.
    config.machine.channels_last = True
    step, batch = training_step(config, IMAGES), blank_batch(config.recipe, 64, torch.device("cpu"))
    step(batch, 0)
    peak, _ = allocated(lambda: step(batch, 1))
    resting = bytes_of([*step.method.parameters(), *step.method.buffers(), *batch.views.values()])
    resting += bytes_of(optimizer_tensors(step.optimizer))
    trace = traced_step(config.recipe, config.machine, 64, 1, IMAGES)
    assert trace.peak_bytes == pytest.approx(resting + peak, rel=0.03)


@pytest.mark.parametrize("recompute", ["none", "blocks", "all"])
def test_what_half_precision_holds_for_the_backward_pass_is_what_the_allocator_holds(config, recompute):
    # The peak itself cannot be compared: without kernels for bfloat16 a CPU unfolds whole layers for its convolutions.
    def forward() -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return method(batch).outputs["loss"]

    method = build_method(config.recipe, IMAGES, recompute=recompute)
    batch = blank_batch(config.recipe, 8, torch.device("cpu"))
    forward()
    _, held = allocated(forward)
    tracker = StepTracker()
    with FakeTensorMode(), tracker:
        method = build_method(config.recipe, IMAGES, recompute=recompute)
        batch = blank_batch(config.recipe, 8, torch.device("cpu"))
        before = sum(tracker.living.values())
        loss = forward()
        assert sum(tracker.living.values()) - before == pytest.approx(held, rel=0.01)
    del loss


def test_memory_and_operations_are_affine_in_the_images_of_a_process(config):
    config.recipe.global_batch_images = 512
    memory = StepMemory(config.recipe, config.machine, IMAGES, [16, 64, 256], exact=64)
    middle = memory.trace(64, "none")
    passes, update = memory.lines(64, "none")
    # A maximum of lines is convex: the chord may be above it, never below.
    assert middle.peak_bytes <= max(passes(64), update(64)) <= 1.02 * middle.peak_bytes
    assert memory.flops(64, Variant()) == pytest.approx(middle.flops, rel=1e-6)
    assert passes(memory.largest_that_fits(500 * MIB, "none")) <= 500 * MIB
    assert passes(memory.largest_that_fits(500 * MIB, "none") + 1) > 500 * MIB


def test_a_single_large_share_is_not_mistaken_for_a_constant(config):
    memory = StepMemory(config.recipe, config.machine, IMAGES, [4, 8, 16], exact=16)
    assert memory.flops(8, Variant()) == pytest.approx(memory.flops(16, Variant()) / 2, rel=0.01)


@pytest.mark.parametrize("recorded", [False, True])
def test_recomputation_and_chunks_trade_operations_for_memory(config, recorded):
    config.recipe.batch_norm_group_images = 8
    config.machine.device, config.machine.cuda_graphs = "cuda", recorded
    plain = traced_step(config.recipe, config.machine, 32, 2, IMAGES)
    blocks, everything = (
        traced_step(config.recipe, replace(config.machine, recompute=mode), 32, 2, IMAGES) for mode in ("blocks", "all")
    )
    chunked = traced_step(config.recipe, replace(config.machine, images_per_chunk=8), 32, 2, IMAGES)
    assert plain.peak_bytes > blocks.peak_bytes > everything.peak_bytes
    assert plain.flops < blocks.flops < everything.flops < 1.4 * plain.flops
    assert chunked.peak_bytes < 0.5 * plain.peak_bytes
    assert chunked.flops == pytest.approx(plain.flops * 4 / 3, rel=0.03)
    memory = StepMemory(config.recipe, config.machine, IMAGES, [32, 16, 8], exact=32)
    # The estimate adds what a chunk alone takes and what the other images hold meanwhile.
    estimate = memory.peak_bytes(32, Variant(images_per_chunk=8))
    assert chunked.peak_bytes == pytest.approx(estimate, rel=0.15)


def test_traffic_is_counted_from_the_step(config):
    trace = traced_step(config.recipe, config.machine, 16, 4, IMAGES)
    traffic = {kind.sent.label: kind for kind in step_traffic([trace], 16, ASSUMED)}
    channels = [m.num_features for m in build_method(config.recipe, IMAGES).modules() if hasattr(m, "num_features")]
    for way in ("forward", "backward"):
        statistics = traffic[f"batch norm ({way} pass)"]
        # Mean and variance (or the two sums) of each channel to three others, in float32.
        assert (statistics.calls, statistics.wire_bytes) == (len(channels), 3 * 2 * 4 * sum(channels))
    parameters = sum(p.numel() for p in build_method(config.recipe, IMAGES).parameters())
    assert traffic["gradients (backward pass)"].wire_bytes == 2 * 3 / 4 * 4 * parameters
    # Two rows an image, of 128 numbers and of the three that follow; ranks of 16 images to three others.
    assert traffic["rows of the loss"].wire_bytes == 3 * 4 * 2 * 16 * 128
    assert traffic["sums of the loss"].wire_bytes == 3 * 4 * 2 * 16 * 3
    assert len(traffic) == 5


def test_the_plan_says_what_fits_what_does_not_and_what_is_refused(config):
    config.recipe.batch_norm_group_images = 24
    config.recipe.global_batch_images = 72
    config.machine.keep_every_steps, config.machine.keep_best = 10, "online_knn_top1"
    plan = make_plan(config, 3, 70 * 10**6, 1437, ASSUMED)
    assert (plan.steps_per_epoch, plan.total_steps) == (19, 76)
    assert [row.gpus for row in plan.rows] == [1, 3]  # 8 shares of 9 images are no multiple and no part of 24
    assert "cannot be mapped" in plan.refused[8]
    assert "cannot be shared equally" in plan.refused[16]
    assert set(plan.refused) == {2**power for power in range(1, 13)}
    assert (plan.suggested.gpus, plan.suggested.fits) == (3, True)
    text = report(plan)
    assert "nothing here was measured" in text
    assert "refused: " in text
    size = plan.checkpoint_bytes
    assert f"milestones  7, one every 10 steps: {show_bytes(7 * size)}" in text
    assert f"best        by online_knn_top1: {show_bytes(size)}" in text
    assert all(len(line) <= 130 for line in text.splitlines() if not line.startswith("refused"))
    with pytest.raises(UserError, match="cannot be shared equally"):
        make_plan(config, 5, 10**9, 1437, ASSUMED)
    with pytest.raises(UserError, match="more than the data set's 10 images"):
        make_plan(config, 3, 10**9, 10, ASSUMED)


def test_a_suggestion_loads_beside_its_recipe(config, tmp_path):
    config.recipe.batch_norm_group_images = config.recipe.global_batch_images = 8
    config.machine.precision, config.machine.keep_checkpoints = "bfloat16", 5
    plan = make_plan(config, 1, 10**9, 1437, ASSUMED)
    plan = replace(plan, suggested=replace(plan.suggested, variant=Variant(images_per_chunk=4)))
    file = tmp_path / "suggested.yaml"
    file.write_text(yaml.safe_dump({"recipe": to_dict(config.recipe)}) + suggestion(plan))
    loaded = load_config(str(file))
    assert loaded.recipe == config.recipe
    assert (loaded.machine.precision, loaded.machine.keep_checkpoints) == ("bfloat16", 5)
    assert loaded.machine.device == "cuda"
    assert loaded.machine.images_per_chunk == 4


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0 µs"), (2.5e-5, "25 µs"), (0.0032, "3.2 ms"), (0.0814, "81.4 ms"), (0.9997, "1 s"), (1.5, "1.5 s"),
        (100, "100 s"), (300, "5 min"), (3600, "60 min"), (18_900, "5.25 h"), (400_000, "4.63 days"),
        (1e9, "11574 days"),
    ],
)  # fmt: skip
def test_seconds_are_shown_as_people_read_them(seconds, shown):
    assert show_seconds(seconds) == shown


@pytest.mark.parametrize(
    ("gpu_bytes", "group", "gpus", "taken"),
    [
        (80e9, 0, 32, 8.0),  # a tenth is more
        (16e9, 0, 1, 1.6),
        (14e9, 0, 1, 1.5),
        (16e9, 0, 8, 3.1),  # one communicator
        (16e9, 64, 8, 3.1),  # a group is a process's own
        (16e9, 128, 8, 4.7),  # one more, for the two processes of a group
        (16e9, 512, 8, 3.1),  # the group is of all processes
        (1e9, 0, 8, 1.0),
    ],
)
def test_libraries_take_a_tenth_of_a_gpu_or_what_they_need_for_each_communicator(gpu_bytes, group, gpus, taken):
    assumed = Assumptions(flops_per_second=1e12, bandwidth=25e9, node_bandwidth=200e9)
    assert bytes_for_tensors(gpu_bytes, group, 512, gpus, assumed) == pytest.approx(gpu_bytes - 1e9 * taken)


def test_each_number_of_gpus_has_the_communicators_that_it_needs(config):
    assumed = replace(ASSUMED, communicator_bytes=10**9)
    rows = make_plan(config, 1, 10**9, 64, assumed, others=[1, 2]).rows
    assert [(row.gpus, row.fits) for row in rows] == [(1, True), (2, False)]


def test_columns_are_two_blanks_apart_however_long_a_cell_is():
    assert columns([["a", "b", "c"], ["1" * 50, "2" * 30, "x"]]) == [
        f"{'a':<50}  {'b':>30}  c",
        f"{'1' * 50}  {'2' * 30}  x",
    ]


def test_the_columns_of_a_plan_of_a_tiny_run_are_apart(config):
    text = report(make_plan(config, 2, 10**9, 64, ASSUMED, others=[1]))
    assert re.search(r"GPUs +images each +peak +communication +step +whole run +bottleneck +fits", text)
    assert not re.search(r"[a-zµ%]\d|e-\d", text.partition("GPUs  images each")[2].replace("resnet10", ""))


@pytest.mark.parametrize("group", [0, 8])
@pytest.mark.parametrize("gpus", [1, 4])
def test_the_largest_number_that_fits_fits(config, group, gpus):
    config.recipe.batch_norm_group_images = group
    batch = config.recipe.global_batch_images
    memory = StepMemory(config.recipe, config.machine, IMAGES, [batch // gpus, 16], batch // gpus)
    trace = memory.trace(batch // gpus, "none")
    for usable in (trace.peak_bytes * 0.999, trace.peak_bytes, trace.resting_bytes / 2, 1e12):
        largest = memory.largest_that_fits(usable, "none")
        assert largest <= batch
        assert (largest >= batch // gpus) == (trace.peak_bytes <= usable)
        assert largest == 0 or usable > trace.resting_bytes


def test_where_one_number_was_traced_and_does_not_fit_none_is_named(config):
    text = report(make_plan(config, 1, 10**6, IMAGES, ASSUMED, others=()))
    assert "as it is: does not fit" in text
    assert "largest number of images a GPU at once: none with recompute=none" in text


def test_the_command_prints_the_plan_and_draws_it(capsys, tmp_path):
    picture = tmp_path / "plan.png"
    options = (
        "recipe.global_batch_images=128",
        "--gpus",
        "2",
        "--gpu-memory",
        "16GB",
        "--suggest",
        "--out",
        str(picture),
    )
    status, out, err = run_command(capsys, "plan", "digits_demo", *options)
    assert (status, [line for line in err.splitlines() if " images " not in line]) == (0, [])
    assert "1437 images, 11 steps an epoch, 60 epochs, 660 steps" in out
    assert "machine:" in out
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["digits_demo", "--gpus", "3", "--gpu-memory", "80GB"], "3 processes"),
        (["digits_demo", "--gpus", "4", "--gpu-memory", "80"], "--gpu-memory"),
        (["digits_demo", "--gpus", "4", "--gpu-memory", "80GB", "--bandwidth", "200"], "--bandwidth"),
        (["digits_demo", "--gpus", "4", "--gpu-memory", "80GB", "--nodes", "3"], "--nodes"),
        (["digits_demo", "--gpus", "4", "--gpu-memory", "80GB", "--images", "few"], "--images"),
        (["digits_demo", "--gpus", "4"], "--gpu-memory"),
        (
            [
                "digits_demo",
                "recipe.data.source=folder",
                "recipe.data.path=/none",
                "--gpus",
                "4",
                "--gpu-memory",
                "8GB",
            ],
            "--images",
        ),
        (["digits_demo", "machine.images_per_chunk=10", "--gpus", "2", "--gpu-memory", "80GB"], "images_per_chunk"),
    ],
)
def test_a_mistake_is_one_line(capsys, arguments, named):
    status, out, err = run_command(capsys, "plan", *arguments)
    assert (status, out) == (2, "")
    assert named in complaint(err)
