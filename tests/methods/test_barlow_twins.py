"""Barlow Twins against facebookresearch/barlowtwins: loss, gradients, and what its two processes computed."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from simclr_dist.data.loading.batch import Batch
from simclr_dist.distributed.collectives import process_count, process_rank
from simclr_dist.distributed.global_batch import global_batch
from simclr_dist.methods.barlow_twins import BarlowTwins, cross_correlation, distances, normalised
from simclr_dist.optim.rates import Moment
from tests.support.golden import ToyParts, golden, tensor, toy_recipe
from tests.support.processes import relative_error, run_distributed

GOLDEN = golden("barlow_twins")
EXACT = 1e-10


def toy(**options: Any) -> BarlowTwins:
    config = BarlowTwins.Config(hidden_dim=8, output_dim=8, **options)
    return BarlowTwins(config, ToyParts(toy_recipe(4)), 4).double()


def loss_and_gradients(record: dict[str, Any], **options: Any) -> tuple[float, torch.Tensor]:
    """Of this process's rows of the record's raw embeddings; (n, 2, d) the gradient, as DDP's mean will have it."""
    z = torch.stack((tensor(record["z1"]), tensor(record["z2"])), dim=1).chunk(process_count())[process_rank()]
    z = z.clone().requires_grad_()
    batch = Batch(views={"first": torch.zeros(len(z), 1)}, samples=torch.from_numpy(np.arange(len(z))), epoch=0, seed=0)
    outputs = toy(off_diagonal_weight=record["lambd"], **options).loss({"z": z}, {}, batch)
    outputs["loss"].backward()
    assert z.grad is not None
    return float(outputs["loss"].detach()), z.grad / process_count()


@pytest.mark.parametrize("record", GOLDEN["loss"])
def test_loss_and_gradient_are_those_of_the_authors_on_one_and_two_processes(record):
    expected = torch.stack((tensor(record["gradient_z1"]), tensor(record["gradient_z2"])), dim=1)
    for found in ([loss_and_gradients(record)], run_distributed(2, loss_and_gradients, record)):
        assert [loss for loss, _ in found] == pytest.approx([record["loss"]] * len(found), rel=EXACT)
        assert relative_error(torch.cat([gradient for _, gradient in found]), expected) < EXACT


def test_the_cross_correlation_is_that_of_the_authors():
    for record in GOLDEN["loss"]:
        correlation = cross_correlation(normalised(tensor(record["z1"])), normalised(tensor(record["z2"])))
        assert relative_error(correlation, tensor(record["cross_correlation"])) < EXACT


def _of_two(record: dict[str, Any]) -> list[torch.Tensor]:
    rows = [tensor(record[f"normalised_{z}"]).chunk(2)[process_rank()].clone().requires_grad_() for z in ("z1", "z2")]
    on_diagonal, off_diagonal = distances(cross_correlation(*(global_batch(z) for z in rows)))
    (on_diagonal + record["lambd"] * off_diagonal).backward()
    return [z.grad for z in rows]


def test_on_two_processes_the_gradient_is_twice_that_of_the_authors_whose_mean_over_processes_halves_it():
    (record,) = GOLDEN["two_processes"]
    for found, told in zip(run_distributed(2, _of_two, record), record["per_process"], strict=True):
        for gradient, name in zip(found, ("gradient_z1", "gradient_z2"), strict=True):
            assert relative_error(gradient, 2 * tensor(told[name])) < EXACT


def test_the_gradient_scale_multiplies_the_gradient_and_not_the_loss():
    record = GOLDEN["loss"][0]
    loss, gradient = loss_and_gradients(record)
    scaled_loss, scaled = loss_and_gradients(record, gradient_scale=1 / 32)
    assert scaled_loss == pytest.approx(loss, rel=EXACT)
    assert relative_error(32 * scaled, gradient) < EXACT


def test_biases_and_norms_have_the_authors_share_of_the_rate():
    (rate,) = toy().rates()
    for record in GOLDEN["schedule"]:
        for weights, biases in record["weights_and_biases_rate_at_step"].values():
            moment = Moment(step=1, steps=9, steps_per_epoch=3, scheduled=weights, peak=1.0)
            assert rate.of(moment) == pytest.approx(biases, rel=1e-12)
    assert not rate.matches("w", nn.Parameter(torch.zeros(2, 2)))
    assert rate.matches("b", nn.Parameter(torch.zeros(2)))
