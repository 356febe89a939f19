"""``verify`` passes where the promises hold, and names the right row where one is broken."""

import dataclasses
from typing import Any

import pytest
import torch

from simclr_dist.config import load_config
from simclr_dist.data.loading import batches
from simclr_dist.distributed.collectives import process_count, process_rank
from simclr_dist.distributed.processes import Processes
from simclr_dist.losses import nt_xent
from simclr_dist.models import statistics_group
from simclr_dist.optim import factory
from simclr_dist.verification import certificate
from tests.support.processes import run_distributed


def _gather_without_gradient() -> None:
    """The usual tutorial: remote columns detached, so each row misses what the others pull."""

    class LocalRowsOnly(torch.nn.Module):
        def __init__(self, temperature: float) -> None:
            super().__init__()
            self.temperature = temperature

        def forward(self, z_1: torch.Tensor, z_2: torch.Tensor) -> torch.Tensor:
            return nt_xent(z_1, z_2, self.temperature, None).loss / process_count()

    certificate.NTXentLoss = LocalRowsOnly


def _local_batch_norm() -> None:
    statistics_group.divide_batch_norm = lambda *_, **__: statistics_group.StatisticsGroup()


def _lars_adapts_biases() -> None:
    groups = factory.parameter_groups
    factory.parameter_groups = lambda *a: [{**group, "adapt": True} for group in groups(*a)]


def _seeds_by_rank() -> None:
    draw = batches.draw_views
    batches.draw_views = lambda views, seed, *rest: draw(views, seed + process_rank(), *rest)


def _hue_one_way() -> None:
    """A renderer's mistake of old: the shift's sign lost."""
    device = certificate.render_colors

    def one_way(crops: torch.Tensor, choices: Any, form: str) -> torch.Tensor:
        factors = choices.color_factors.clone()
        factors[..., 3].abs_()
        return device(crops, choices._replace(color_factors=factors), form)

    certificate.render_colors = one_way


def _order_by_rank() -> None:
    samples = certificate.SampleOrder.samples
    certificate.SampleOrder.samples = lambda self, step, rank=0, processes=1: samples(
        dataclasses.replace(self, seed=self.seed + rank), step, rank, processes
    )


BREAKS: dict[str, Any] = {
    "loss gradient": _gather_without_gradient,
    "grouped batch norm": _local_batch_norm,
    "LARS step": _lars_adapts_biases,
    "views": _seeds_by_rank,
    "sample order": _order_by_rank,
    "renderers": _hue_one_way,
}


def _rows(broken: str | None, *overrides: str) -> dict[str, bool]:
    if broken:
        BREAKS[broken]()
    rank, count = process_rank(), process_count()
    recipe = load_config("digits_demo", overrides).recipe
    found = certificate.Certificate(recipe, Processes(rank, count, rank, count), torch.device("cpu")).rows()
    return {row.name: row.holds for row in found}


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("group_images", [0, 16, 64])
def test_every_promise_holds_whatever_the_processes_and_the_batch_norm_group(count, group_images):
    for rows in run_distributed(count, _rows, None, f"recipe.batch_norm_group_images={group_images}"):
        assert len(rows) == 8
        assert all(rows.values()), rows


@pytest.mark.parametrize("broken", BREAKS)
def test_a_broken_promise_is_named(broken):
    for rows in run_distributed(2, _rows, broken, "recipe.views.hue=0.2"):
        assert not rows[broken]
        # Gradients go through loss and batch norm, and views through the order: those may fail together, no others.
        downstream = (
            {"parameter gradients", "chunks"} if broken in ("loss gradient", "grouped batch norm") else {"views"}
        )
        assert {name for name, holds in rows.items() if not holds} <= {broken, *downstream}


def test_the_command_prints_the_certificate_and_ends_with_0_or_1(run, monkeypatch):
    status, out, _ = run("verify")
    assert (status, out.count("holds")) == (0, 8)
    monkeypatch.setattr(certificate.Certificate, "_order", lambda _: float("nan"))
    status, out, _ = run("verify")
    assert status == 1
    assert [line.split()[0] for line in out.splitlines() if "FAILS" in line] == ["sample"]
