"""``verify`` passes where the promises hold, and names the right check where one is broken."""

import dataclasses
from typing import Any

import pytest
import torch
from torch.nn import functional

from simclr_dist.config import load_config
from simclr_dist.config.views import ViewGroup
from simclr_dist.data.views import groups
from simclr_dist.distributed.collectives import alone, gather_stacked, process_count, process_rank
from simclr_dist.distributed.processes import Processes
from simclr_dist.methods import simclr
from simclr_dist.methods.base import Method
from simclr_dist.models.statistics_group import StatisticsGroup
from simclr_dist.optim import factory
from simclr_dist.verification import data, miniature
from simclr_dist.verification.certificate import certify
from simclr_dist.verification.check import Check, largest, relative_error
from simclr_dist.verification.kernels import kernel_checks
from simclr_dist.verification.miniature import Miniature
from simclr_dist.verification.optimizer import optimizer_check
from tests.support import toy_methods
from tests.support.masked import Dense
from tests.support.processes import run_distributed, tiny_config
from tests.support.toy_methods import name_of


def _gather_without_gradient() -> None:
    """The usual tutorial: remote columns detached, so each row misses what the others pull."""
    nt_xent = simclr.nt_xent

    def local_rows_only(z_1: torch.Tensor, z_2: torch.Tensor, temperature: float) -> Any:
        result = nt_xent(z_1, z_2, temperature)
        value = result.loss.detach()
        return dataclasses.replace(result, loss=value + (result.loss - value) / process_count())

    simclr.nt_xent = local_rows_only


def _local_batch_norm() -> None:
    miniature.divide_batch_norm = lambda *_, **__: StatisticsGroup()


def _lars_adapts_biases() -> None:
    made = factory.parameter_groups
    factory.parameter_groups = lambda *a: [{**group, "adapt": True} for group in made(*a)]


def _seeds_by_rank() -> None:
    draw = groups.draw_views
    groups.draw_views = lambda views, seed, *rest: draw(views, seed + process_rank(), *rest)


def _hue_one_way() -> None:
    """A renderer's mistake of old: the shift's sign lost."""
    device = data.render_colors

    def one_way(crops: torch.Tensor, choices: Any, form: str) -> torch.Tensor:
        factors = choices.color_factors.clone()
        factors[..., 3].abs_()
        return device(crops, choices._replace(color_factors=factors), form)

    data.render_colors = one_way


def _order_by_rank() -> None:
    samples = miniature.SampleOrder.samples
    miniature.SampleOrder.samples = lambda self, step, rank=0, processes=1: samples(
        dataclasses.replace(self, seed=self.seed + rank), step, rank, processes
    )


def _convolutions_in_tf32() -> None:
    """What cuDNN does with float32 unless it is told not to: ten bits of each factor."""
    conv2d = functional.conv2d

    def rounded(tensor: torch.Tensor) -> torch.Tensor:
        bits = tensor.view(torch.int32)
        return ((bits + (1 << 12)) & ~((1 << 13) - 1)).view(torch.float32)

    def in_tf32(x: torch.Tensor, weight: torch.Tensor, *rest: Any, **named: Any) -> torch.Tensor:
        if x.dtype == torch.float32:
            x, weight = rounded(x), rounded(weight)
        return conv2d(x, weight, *rest, **named)

    functional.conv2d = in_tf32


# Gradients go through loss and batch norm, and views through the order: those may fail together, no others.
METHOD = {"parameter gradients", "chunks", "loss and metrics", "state after update", "plain reference"}
BREAKS: dict[str, Any] = {
    "plain reference": (_gather_without_gradient, {"parameter gradients", "chunks"}),
    "grouped batch norm": (_local_batch_norm, METHOD - {"plain reference"}),
    "LARS step": (_lars_adapts_biases, set()),
    "views": (_seeds_by_rank, set()),
    "sample order": (_order_by_rank, {"views"}),
    "renderers": (_hue_one_way, set()),
}


def _certificate(broken: str | None, *overrides: str) -> dict[str, bool]:
    if broken:
        BREAKS[broken][0]()
    rank, count = process_rank(), process_count()
    recipe = load_config("digits_demo", overrides).recipe
    found = certify(recipe, Processes(rank, count, rank, count), torch.device("cpu"))
    return {check.name: check.holds for check in found}


def failing(checks: dict[str, bool]) -> set[str]:
    return {name for name, holds in checks.items() if not holds}


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("group_images", [0, 16, 64])
def test_every_promise_holds_whatever_the_processes_and_the_batch_norm_group(count, group_images):
    for checks in run_distributed(count, _certificate, None, f"recipe.batch_norm_group_images={group_images}"):
        assert len(checks) == 12
        assert not failing(checks)


@pytest.mark.parametrize("broken", BREAKS)
def test_a_broken_promise_is_named(broken):
    for checks in run_distributed(2, _certificate, broken, "recipe.views.hue=0.2"):
        assert broken in failing(checks)
        assert failing(checks) <= {broken, *BREAKS[broken][1]}


def _of_method(method: type[Method]) -> dict[str, bool]:
    return _certificate(None, f"recipe.method.name={name_of(method)}", "recipe.batch_norm_group_images=32")


@pytest.mark.parametrize("count", [1, 2])
def test_a_method_of_ones_own_with_views_of_two_sizes_labels_and_state_is_checked_too(count):
    for checks in run_distributed(count, _of_method, toy_methods.Toy):
        assert checks.keys() & METHOD == METHOD - {"plain reference"}  # it brings none
        assert not failing(checks)


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        (toy_methods.RemoteRowsDetached, {"parameter gradients", "chunks"}),
        (toy_methods.StateByRank, {"state after update"}),
        (toy_methods.OwnMetric, {"loss and metrics"}),
        (toy_methods.OtherLoss, {"plain reference"}),
    ],
)
def test_a_method_whose_numbers_depend_on_the_process_or_are_not_its_papers_fails(method, expected):
    for checks in run_distributed(2, _of_method, method):
        assert failing(checks) == expected


@pytest.mark.parametrize(("method", "view"), [("simclr", 64), ("jigsaw", 255), ("relative_patch", 266)])
def test_the_miniatures_encoder_of_timm_gets_images_of_the_size_that_it_was_made_for(method, view, tmp_path):
    fixed = ("recipe.encoder.name=timm/vit_tiny_patch16_224", "recipe.encoder.options={depth: 1, img_size: 64}")
    config = tiny_config(
        tmp_path,
        f"recipe.method.name={method}",
        *fixed,
        "recipe.data.image_size=64",
        f"recipe.views.global.size={view}",
    )
    small = Miniature(config.recipe, Processes(), torch.device("cpu"))
    made = small.method(small.statistics())
    assert made.encoder.backbone.patch_embed.img_size == (32, 32)
    with torch.no_grad():
        made.embedded(made.prepare(small.global_batch()))


def test_a_miniature_keeps_the_proportion_of_the_sizes_of_views_and_the_methods_own_small_sizes(tmp_path):
    own = f"recipe.method.name={name_of(toy_methods.Toy)}"
    config = tiny_config(tmp_path, own, "recipe.data.image_size=224", "recipe.views.small.size=168")
    small = Miniature(config.recipe, Processes(), torch.device("cpu"))
    assert {name: group.size for name, group in small.recipe.views.items()} == {"large": 16, "small": 12}
    config.recipe.views["small"].size = 32
    small = Miniature(config.recipe, Processes(), torch.device("cpu"))
    assert {name: group.size for name, group in small.recipe.views.items()} == {"large": 16, "small": 8}
    batch = small.global_batch()
    assert [tuple(each.shape[1:]) for each in batch.views.values()] == [(1, 3, 16, 16), (2, 3, 8, 8)]
    assert batch.labels is not None
    assert len(batch.labels.unique()) > 1
    config = tiny_config(tmp_path, "recipe.method.name=moco")
    small = Miniature(config.recipe, Processes(), torch.device("cpu"))
    assert small.recipe.method.queue_keys == small.batch * 3 // 2
    assert small.global_batch().labels is None


_OUTSIDE = "recipe.optimizer.classic_momentum=false"
_INSIDE = ("recipe.optimizer.name=lars", _OUTSIDE, "recipe.optimizer.trust_in_momentum=true")


@pytest.mark.parametrize("keys", [
    ("recipe.optimizer.name=lars",), ("recipe.optimizer.name=lars", _OUTSIDE), _INSIDE,
    (*_INSIDE, "recipe.optimizer.trust_clip=true", "recipe.optimizer.trust_coefficient=0.02"),
    ("recipe.optimizer.name=sgd",), ("recipe.optimizer.name=adamw",), ("recipe.optimizer.name=lamb",),
])  # fmt: skip
def test_the_optimizer_that_is_checked_is_the_recipes_in_its_form(keys, monkeypatch):
    small = Miniature(load_config("digits_demo", keys).recipe, Processes(), torch.device("cpu"))
    assert optimizer_check(small).holds
    make = factory.make_optimizer
    of_other = {"momentum": 0.8, "trust_in_momentum": False, "trust_clip": False, "classic_momentum": True}
    for key, value in of_other.items():
        if key != "momentum" and getattr(small.recipe.optimizer, key) == value:
            continue
        monkeypatch.setattr(
            factory, "make_optimizer", lambda m, r, k=key, v=value: make(m, dataclasses.replace(r, **{k: v}))
        )
        assert not optimizer_check(small).holds, key


def test_convolutions_in_tf32_are_those_of_a_config_that_asks_for_them(monkeypatch):
    monkeypatch.setattr(functional, "conv2d", functional.conv2d)  # puts the true one back
    _convolutions_in_tf32()
    small = Miniature(load_config("digits_demo", ()).recipe, Processes(), torch.device("cpu"))
    holds = {precision: [check.holds for check in kernel_checks(small, precision)] for precision in ("float32", "tf32")}
    assert holds == {"float32": [False, True], "tf32": [True, True]}


def _alone() -> tuple[int, ...]:
    with alone():
        inside = process_count(), process_rank(), len(gather_stacked(torch.zeros(3)))
    try:
        with alone():
            raise KeyError
    except KeyError:
        pass
    return *inside, process_count(), process_rank()


def test_alone_a_process_of_a_group_is_the_only_one_and_afterwards_it_is_not():
    assert run_distributed(2, _alone) == [(1, 0, 1, 2, 0), (1, 0, 1, 2, 1)]


def test_what_is_not_a_number_or_of_another_shape_never_holds():
    assert not Check("", largest([0.0, float("nan"), 0.0]), 1.0).holds
    assert not Check("", relative_error(torch.ones(3), torch.ones(2)), 1.0).holds
    assert not Check("", relative_error(torch.tensor(float("nan")), torch.ones(())), 1.0).holds
    assert relative_error(torch.zeros(2), torch.zeros(2)) == 0
    assert relative_error(torch.full((2,), 1e-9), torch.zeros(2)) > 1


def test_the_command_prints_the_certificate_and_ends_with_0_or_1(run, monkeypatch):
    status, out, _ = run("verify")
    assert (status, out.count("holds")) == (0, 12)
    monkeypatch.setattr(data, "order_error", lambda _: float("nan"))
    status, out, _ = run("verify")
    assert status == 1
    assert [line.split()[0] for line in out.splitlines() if "FAILS" in line] == ["sample"]


def test_masks_in_small_have_classes_ignored_pixels_and_images_without_any(tmp_path):
    recipe = tiny_config(tmp_path, f"recipe.method.name={name_of(Dense)}").recipe
    recipe.views = {"image": ViewGroup(count=2), "copy": ViewGroup(count=1, crop_of="image", size=4)}
    batch = Miniature(recipe, Processes(), torch.device("cpu")).global_batch()
    masks = batch.masks["image"]
    assert masks.shape == (*batch.views["image"].shape[:2], *batch.views["image"].shape[3:])
    assert set(masks.unique().tolist()) == {0, 1, 2, 3, 4, 255}
    assert (masks != 255).flatten(1).any(1).unique().tolist() == [False, True]
    assert torch.equal(batch.masks["copy"][:, 0], masks[:, 0, ::2, ::2])
    assert {each.box.shape[:2] for each in batch.geometry.values()} == {masks.shape[:2], (len(masks), 1)}


def test_an_output_stride_is_the_small_networks_in_small(tmp_path):
    for overrides, stride in ((["stem=imagenet", "output_stride=8"], 2), (["stem=small", "output_stride=4"], 4)):
        recipe = tiny_config(tmp_path, *(f"recipe.encoder.{each}" for each in overrides)).recipe
        encoder = Miniature(recipe, Processes(), torch.device("cpu")).method().encoder
        pixels = torch.zeros(1, 3, 16, 16, dtype=torch.uint8)
        assert encoder.map(pixels).shape[2:] == (16 // stride, 16 // stride)
