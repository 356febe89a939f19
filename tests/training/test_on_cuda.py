"""What a step on a GPU must share with a step on a CPU.

benchmarks/gpu.py runs it on a GPU; where there is none, a pretended one serves (tests/support/pretended_gpu.py).
"""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from simclr_dist.config import Config
from simclr_dist.config.registry import METHODS
from simclr_dist.data.loading.batch import Batch
from simclr_dist.data.loading.one_ahead import on_device
from simclr_dist.data.loading.order import build_order
from simclr_dist.distributed.processes import Processes
from simclr_dist.errors import UserError
from simclr_dist.guards.anomalies import AnomalyWatch
from simclr_dist.losses import nt_xent
from simclr_dist.methods.simclr import SimCLR
from simclr_dist.models.kernels import set_kernels
from simclr_dist.optim.schedule import build_schedule
from simclr_dist.run.metrics_log import read_metrics
from simclr_dist.training.pretraining import pretrain
from simclr_dist.training.step import TrainingStep
from tests.support.methods import method_config
from tests.support.poison import poisoned
from tests.support.processes import assert_bit_equal, relative_error, tiny_config
from tests.support.steps import noise_batch
from tests.support.timm_families import FAMILIES, family_config

pytestmark = pytest.mark.cuda(pretended=True)
GPU, CPU = "cuda", "cpu"
IMAGES = 64
# A pretended one computes on the CPU, where torch's bfloat16 reads memory that nobody wrote in small maps.
HALF = "bfloat16" if torch.cuda.is_available() else "float32"
# What one computes is small, as its Python is what is tested.
WIDTH = "recipe.encoder.width=0.25" if torch.cuda.is_available() else "recipe.encoder.width=0.125"
# Of timm's families that the CPU is quick with; all of them on a true one.
QUICK = ("ViT", "RegNet")


def taken(config: Config, device: str, steps: int = 3) -> TrainingStep:
    """The step after so many on noise."""
    recipe = config.recipe
    set_kernels(deterministic=True, precision=config.machine.precision)
    order = build_order(recipe, IMAGES)
    schedule = build_schedule(recipe, order)
    anomalies = AnomalyWatch(recipe.anomalies, Path(), schedule.warmup_steps, None, active=False)
    step = TrainingStep(config, Processes(), torch.device(device), schedule, order.steps_per_epoch, IMAGES, anomalies)
    step.make_parallel()
    for number in range(steps):
        step(noise_batch(config, number), number)
    return step


def assert_close(name: str, found: Tensor, expected: Tensor, relative: float) -> None:
    torch.testing.assert_close(
        found, expected, rtol=relative, atol=relative / 100, msg=lambda difference: f"{name}: {difference}"
    )


@pytest.mark.parametrize("group", [0, 8])
@pytest.mark.parametrize("layout", ["machine.channels_last=false", "machine.channels_last=true"])
def test_three_steps_on_the_gpu_leave_the_cpus_weights_and_statistics(tmp_path, group, layout):
    config = tiny_config(tmp_path, f"recipe.batch_norm_group_images={group}", layout, "machine.precision=float64")
    here, there = (taken(config, device).method.state_dict() for device in (CPU, GPU))
    for name, expected in here.items():
        if expected.is_floating_point():
            assert_close(name, there[name].cpu(), expected, 1e-8)


@pytest.mark.parametrize(
    "family", [pytest.param(family, marks=pytest.mark.cuda(pretended=family in QUICK)) for family in FAMILIES]
)
def test_steps_of_timms_models_on_the_gpu_are_the_cpus_and_the_same_bits_again(tmp_path, family):
    pytest.importorskip("timm")
    config = family_config(family, tmp_path, "recipe.batch_norm_group_images=8")
    here, there = (taken(config, device).method.state_dict() for device in (CPU, GPU))
    for name, expected in here.items():
        if expected.is_floating_point():
            # On CUDA torch's hardswish has its thirds and sixths as float32's, whatever it computes in.
            assert_close(name, there[name].cpu(), expected, 1e-4 if family == "MobileNet" else 1e-6)
    half = family_config(
        family, tmp_path, "recipe.batch_norm_group_images=8", "machine.precision=bfloat16", "machine.channels_last=true"
    )
    once, twice = (taken(half, GPU).method.state_dict() for _ in range(2))
    assert_bit_equal(once, twice)


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("group", [0, 8])
def test_the_same_steps_twice_leave_the_same_bits(tmp_path, precision, group):
    config = tiny_config(
        tmp_path, f"recipe.batch_norm_group_images={group}", f"machine.precision={precision}",
        "machine.channels_last=true",
    )  # fmt: skip
    once, twice = (taken(config, GPU) for _ in range(2))
    for name in ("model", "optimizer"):
        assert_bit_equal(once.state[name].state_dict(), twice.state[name].state_dict())


@pytest.mark.parametrize("temperature", [1.0, 0.1, 0.02])
def test_the_loss_and_its_gradient_are_those_of_float64(temperature):
    raw = torch.randn(2, 300, 128, generator=torch.Generator().manual_seed(0))
    found = []
    for views in (raw.double(), raw.to(GPU)):
        views.requires_grad_()
        loss = nt_xent(views[0], views[1], temperature).loss
        loss.backward()
        found.append((loss.detach().cpu(), views.grad.cpu()))
    (exact, gradient), (loss, own) = found
    assert relative_error(loss, exact) < 1e-5
    assert relative_error(own, gradient) < (1e-5 if temperature >= 0.1 else 1e-4)


def test_batches_copied_one_ahead_are_the_hosts(tmp_path):
    config = tiny_config(tmp_path)
    batches = [noise_batch(config, seed) for seed in range(5)]
    ahead = on_device((batch.pin_memory() for batch in batches), torch.device(GPU))
    for number, (batch, expected) in enumerate(zip(ahead, batches, strict=True)):
        for name, views in expected.views.items():
            assert batch.views[name].is_cuda
            torch.ones(1000, 1000, device=GPU).matmul(torch.ones(1000, 1000, device=GPU))
            assert torch.equal(batch.views[name].cpu(), views), number


@pytest.mark.parametrize("policy", ["skip", "go_back"])
def test_updates_before_and_after_the_judgement_leave_the_same_state(tmp_path, policy):
    config = tiny_config(
        tmp_path, f"recipe.anomalies.on_not_finite={policy}", "recipe.anomalies.rollback_every_steps=2",
        "machine.cuda_graphs=false",  # what spoils the numbers is a layer's Python
    )  # fmt: skip

    def state(ahead: bool) -> dict[str, Any]:
        step = taken(config, GPU, steps=0)
        assert step.updates_ahead
        step.updates_ahead = ahead
        poisoned(
            (1, 4), lambda features: features * math.inf, lambda: [step(noise_batch(config, n), n) for n in range(5)]
        )
        return {name: each.state_dict() for name, each in step.trained.items()}

    assert_bit_equal(state(ahead=True), state(ahead=False))


@pytest.mark.parametrize(
    ("name", "chunks"), [*((name, 0) for name in sorted(METHODS)), ("simclr", 16), ("byol", 16), ("swav", 16)]
)
def test_recorded_steps_leave_the_same_bits_as_others(tmp_path, name, chunks):
    def states(*, recorded: bool) -> dict[str, Any]:
        config = method_config(
            name, tmp_path, "recipe.batch_norm_group_images=16", f"machine.images_per_chunk={chunks}", WIDTH,
            f"machine.precision={HALF}", "machine.channels_last=true", f"machine.cuda_graphs={str(recorded).lower()}",
        )  # fmt: skip
        step = taken(config, GPU)
        assert bool(step.recorded) is recorded
        return {name: each.state_dict() for name, each in step.trained.items()}

    assert_bit_equal(states(recorded=True), states(recorded=False))


def test_a_method_that_waits_for_the_device_is_refused_with_the_key_that_helps(tmp_path, monkeypatch):
    embed = SimCLR.embed

    def waiting(self: SimCLR, batch: Batch) -> Any:
        assert batch.views["global"].sum().item() >= 0
        return embed(self, batch)

    monkeypatch.setattr(SimCLR, "embed", waiting)
    with pytest.raises(UserError, match=r"machine\.cuda_graphs=false"):
        taken(tiny_config(tmp_path), GPU, steps=0)


def test_a_run_that_stops_and_goes_on_on_the_gpu_has_the_cpus_losses_and_looks(tmp_path):
    def metrics(device: str, *stops: int) -> list[dict[str, Any]]:
        folder = tmp_path / device
        folder.mkdir()
        for stop in (*stops, 0):
            config = tiny_config(
                folder, "machine.precision=float64", "recipe.epochs=1", "recipe.warmup_epochs=0",
                "recipe.batch_norm_group_images=128", "recipe.global_batch_images=256", f"machine.device={device}",
                "machine.views_on_device=true", "machine.evaluate_every_epochs=1", "machine.compare_every_steps=2",
                "machine.keep_best=online_knn_top1", f"machine.stop_after_steps={stop}",
                "machine.images_per_chunk=128",
            )  # fmt: skip
            pretrain(config, Processes())
        return list(read_metrics(folder / "run" / "metrics.jsonl"))

    found, expected = metrics(GPU, 2), metrics(CPU)
    assert len(found) == len(expected) == 5
    for own, others in zip(found, expected, strict=True):
        assert own["loss"] == pytest.approx(others["loss"], rel=1e-8)
    assert found[-1]["online_knn_top1"] == pytest.approx(expected[-1]["online_knn_top1"], abs=0.01)
