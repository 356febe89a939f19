"""What a plan knows of GPUs: rates with their sources, what they are scaled by, and what it says of the bottleneck."""

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import resnet50

from simclr_dist.config import Config
from simclr_dist.data.loading.batch import blank_batch
from simclr_dist.methods.build import build_method
from simclr_dist.models.batch_norm import norms_of
from simclr_dist.planning import cards
from simclr_dist.planning.bottleneck import bottleneck, loader_demand
from simclr_dist.planning.cards import CARDS, FLOPS_A_VIEW, Rate, card_named, rate_of
from simclr_dist.planning.communication import Assumptions
from simclr_dist.planning.memory import StepMemory, Variant
from simclr_dist.planning.plan import Plan, make_plan
from simclr_dist.planning.report import report
from simclr_dist.planning.traced_step import traced_step
from tests.support.commands import run_command

IMAGES = 1437


@pytest.fixture
def config() -> Config:
    config = Config()
    config.recipe.global_batch_images = 32
    config.recipe.epochs, config.recipe.warmup_epochs = 2, 1
    config.recipe.data.source, config.recipe.data.image_size = "digits", 16
    config.recipe.encoder.name, config.recipe.encoder.stem = "resnet10", "small"
    config.recipe.encoder.width = 0.25
    return config


def planned(config: Config, **assumed: object) -> Plan:
    links = {"bandwidth": 25e9, "node_bandwidth": 200e9}
    return make_plan(config, 2, 10**9, IMAGES, Assumptions(**links, **assumed), others=())


def test_every_rate_names_its_source_and_a_measured_one_goes_first(monkeypatch):
    for name, card in CARDS.items():
        assert all(rate.source and rate.views_per_second > 0 for rate in (card.half, card.full, card.tf32) if rate)
        assert rate_of(name, "bfloat16") == cards.MEASURED.get(name, card.half)
        assert rate_of(name, "float32") == card.full
        assert rate_of(name, "tf32") == card.tf32
        assert rate_of(name, "float64") is None
    measured = Rate(views_per_second=3000, source="benchmarks/gpu.py")
    monkeypatch.setitem(cards.MEASURED, "h100", measured)
    assert rate_of("h100", "float16") == measured
    assert rate_of("h100", "float32") is None, "half precision alone is measured"


@pytest.mark.parametrize(
    ("device", "gigabytes", "card"),
    [
        ("NVIDIA H100 80GB HBM3", 85, "h100"), ("NVIDIA H200", 151, "h200"), ("NVIDIA A100-SXM4-80GB", 85, "a100"),
        ("NVIDIA A100-SXM4-40GB", 42, "a100-40gb"), ("Tesla V100-SXM2-16GB", 17, "v100"),
        ("Tesla V100-SXM2-32GB", 34, "v100-32gb"), ("NVIDIA GeForce RTX 4090", 25, None),
    ],
)  # fmt: skip
def test_a_card_is_known_by_what_torch_calls_it(device, gigabytes, card):
    assert card_named(device, gigabytes * 10**9) == card


def test_rates_are_scaled_by_the_operations_of_a_resnet_50():
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        resnet50()(torch.empty(1, 3, 224, 224))
    assert 3 * counter.get_total_flops() == pytest.approx(FLOPS_A_VIEW, rel=0.01)


@pytest.mark.parametrize("recompute", ["none", "all"])
def test_batch_norm_moves_three_passes_forward_and_five_back(config, recompute):
    config.machine.recompute = recompute
    elements = []
    method = build_method(config.recipe, IMAGES)
    for norm in norms_of(method):
        norm.register_forward_pre_hook(lambda _, inputs: elements.append(inputs[0].numel()))
    method(blank_batch(config.recipe, 4, torch.device("cpu")))
    head = sum(elements[-len(norms_of(method.projection)) :])
    moved = traced_step(config.recipe, config.machine, 4, 1, IMAGES).norm_bytes
    again = 3 * (sum(elements) - head) if recompute == "all" else 0  # the head is not computed again
    assert moved == 4 * (8 * sum(elements) + again)


def test_chunks_go_forward_through_batch_norm_twice(config):
    config.recipe.batch_norm_group_images = 4
    memory = StepMemory(config.recipe, config.machine, IMAGES, [16], 16)
    whole, chunked = (memory.norm_bytes(16, Variant("none", chunk)) for chunk in (0, 4))
    assert whole == memory.trace(16, "none").norm_bytes
    assert chunked == pytest.approx(whole * 11 / 8)


def test_the_bottleneck_is_what_takes_longest(config):
    fast = Assumptions(flops_per_second=1e12, bandwidth=25e9, node_bandwidth=200e9)
    row = planned(config, flops_per_second=1e12).configured
    traffic = row.traffic
    row = replace(row, compute_seconds=1.0, traffic=[], loader_seconds=None, norm_bytes=6e9, images=100)
    assert bottleneck(row, fast) == "computation"
    assert bottleneck(row, replace(fast, memory_bandwidth=10e9)) == "the memory of the GPU, by batch norm"
    assert bottleneck(row, replace(fast, memory_bandwidth=100e9)) == "computation"
    slow = replace(row, loader_seconds=2.0)
    assert bottleneck(slow, replace(fast, cores=3)) == "the loader: more than 3 cores a GPU"
    assert slow.step_seconds == 2.0
    assert "100 images/s, from 4.0 cores" in loader_demand(row, replace(fast, core_images_per_second=25.0))[0]
    assert bottleneck(replace(row, compute_seconds=1e-9, traffic=traffic), fast) == "communication"


def test_without_a_rate_there_are_no_times(config):
    plan = planned(config, rate_source="none is published")
    text = report(plan)
    assert "no rate of a GPU, so no times (none is published)" in text
    assert "bottleneck: not known without the rate of a GPU" in text
    assert "whole run" not in text
    assert plan.configured.compute_seconds is None


def test_the_loaders_cores_bound_a_step(config):
    plan = planned(config, flops_per_second=1e12, core_images_per_second=10.0, cores=2)
    assert plan.configured.step_seconds == pytest.approx(16 / 20)
    assert plan.configured.hours == pytest.approx(plan.total_steps * 16 / 20 / 3600)
    text = report(plan)
    assert "bottleneck: the loader: more than 2 cores a GPU" in text
    assert "keep a GPU busy; 2 are given" in text
    assert all(len(line) <= 130 for line in text.splitlines())


def test_a_card_gives_its_memory_and_times_by_its_rate(capsys):
    options = ("recipe.global_batch_images=16", "machine.precision=bfloat16", "--gpus", "1", "--card", "h100")
    status, out, _ = run_command(capsys, "plan", "digits_demo", *options)
    assert status == 0
    assert "4,383 views/s of ResNet-50 at 224 px a GPU (h100: this project's step" in out
    assert "8 GB of 80 GB left to CUDA" in " ".join(out.split())


@pytest.mark.parametrize(("given", "flops"), [("3100", 3100 * FLOPS_A_VIEW), ("60TFLOP/s", 60e12), ("5e12FLOPS", 5e12)])
def test_a_rate_is_in_views_or_in_operations(given, flops):
    from simclr_dist.planning.answer import _rate

    assert _rate("float32", "h100", given) == (pytest.approx(flops), "as given")
    assert _rate("float32", "h100", None) == (None, "none is published of h100 in float32; --rate gives one")


def test_a_rate_that_cannot_be_meant_is_one_line(capsys):
    for rate in ("fast", "-3", "0views/s", "nan"):
        status, out, err = run_command(capsys, "plan", "digits_demo", "--gpus", "1", "--card", "a100", f"--rate={rate}")
        assert (status, out, err.count("\n")) == (2, "", 1)
        assert "--rate" in err
