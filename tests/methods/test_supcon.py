"""SupCon against HobbitLong/SupContrast, on one and two processes, and against its definition where tiles are many."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from simclr_dist.config import load_config
from simclr_dist.config.registry import method_class
from simclr_dist.distributed.collectives import process_count, process_rank
from simclr_dist.losses import tiles
from simclr_dist.losses.sup_con import sup_con
from simclr_dist.methods.supcon import SupCon
from tests.support.golden import golden, tensor
from tests.support.processes import relative_error, run_distributed

RECORDS = golden("supcon")["loss"]
EXACT = 1e-10


def loss_and_gradient(record: dict[str, Any]) -> tuple[float, Tensor]:
    """Of this process's images; the gradient as DDP's mean will have it."""
    own = slice(process_rank(), None, process_count())  # any images: nothing hangs on where they are
    z = tensor(record["features"])[own].clone().requires_grad_()
    labels = torch.tensor(record["labels"] or range(len(record["features"])))[own]
    loss = sup_con(z, labels, record["temperature"], record["base_temperature"], record["contrast_mode"]).loss
    loss.backward()
    assert z.grad is not None
    return float(loss.detach()), z.grad / process_count()


def test_loss_and_gradient_are_those_of_the_authors_on_one_and_two_processes():
    of_two = run_distributed(2, _of_all_records)
    for number, record in enumerate(RECORDS):
        expected = tensor(record["gradient"])
        loss, gradient = loss_and_gradient(record)
        assert loss == pytest.approx(record["loss"], rel=EXACT)
        assert relative_error(gradient, expected) < EXACT
        for rank, (loss, gradient) in enumerate(found[number] for found in of_two):
            assert loss == pytest.approx(record["loss"], rel=EXACT)
            assert relative_error(gradient, expected[rank::2]) < EXACT


def _of_all_records() -> list[tuple[float, Tensor]]:
    return [loss_and_gradient(record) for record in RECORDS]


def in_one_matrix(z: Tensor, labels: Tensor, temperature: float, mode: str) -> tuple[Tensor, Tensor, Tensor]:
    """The loss at base temperature = temperature, the share of anchors whose nearest row is of their class, and the
    share of those of which float32 cannot tell, as the next one is as near to a few of its roundings."""
    rows, classes = z.transpose(0, 1).flatten(0, 1), labels.repeat(z.shape[1])
    itself = torch.eye(len(rows), dtype=torch.bool)
    log_p = F.log_softmax((rows @ rows.T / temperature).masked_fill(itself, -torch.inf), dim=1)
    positive = (classes[:, None] == classes) & ~itself
    losses = -log_p.masked_fill(~positive, 0).sum(1) / positive.sum(1)
    anchors = slice(None) if mode == "all" else slice(len(labels))
    nearest, next_to_it = (rows @ rows.T).masked_fill(itself, -torch.inf).topk(2, dim=1).values.unbind(1)
    ties = (nearest - next_to_it < 3e-7)[anchors].double().mean()
    return losses[anchors].mean(), (classes[log_p.argmax(1)] == classes)[anchors].double().mean(), ties


@pytest.mark.parametrize("mode", ["all", "one"])
@pytest.mark.parametrize(("temperature", "spread"), [(0.1, 1.0), (0.01, 1.0), (0.1, 1e-2)])
def test_float32_in_many_tiles_is_the_one_matrix_even_when_embeddings_collapse(monkeypatch, mode, temperature, spread):
    monkeypatch.setattr(tiles, "_CPU_TILE", 32)
    torch.manual_seed(0)
    raw = torch.ones(16) + spread * torch.randn(50, 2, 16)
    labels = torch.randint(7, (50,))
    z, exact = (F.normalize(raw.to(dtype), dim=-1).requires_grad_() for dtype in (torch.float32, torch.float64))
    found = sup_con(z, labels, temperature, temperature, mode)
    expected, top1, ties = in_one_matrix(exact, labels, temperature, mode)
    found.loss.backward()
    expected.backward()
    assert float(found.loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    assert relative_error(z.grad, exact.grad) < 2e-4
    assert abs(float(found.top1) - float(top1)) <= float(ties) + 1e-6
    assert ties == 0 or spread < 1


def test_it_needs_labels_and_its_views_are_not_blurred():
    assert method_class("supcon").needs == {"labels"}
    assert SupCon.views(SupCon.Config())["global"].blur_probability == 0
    assert load_config("digits_demo", ["recipe.method.name=supcon"]).recipe.method.base_temperature == 0.07
