"""VICReg against facebookresearch/vicreg: loss and gradients, also of two processes, and the smaller matrix."""

from typing import Any

import numpy as np
import pytest
import torch

from simclr_dist.data.loading.batch import Batch
from simclr_dist.distributed.collectives import process_count, process_rank
from simclr_dist.methods.vicreg import VICReg, covariances
from tests.support.golden import ToyParts, golden, tensor, toy_recipe
from tests.support.processes import relative_error, run_distributed

GOLDEN = golden("vicreg")
EXACT = 1e-10


def loss_and_gradient(record: dict[str, Any]) -> tuple[float, torch.Tensor]:
    """Of this process's rows of the record's embeddings; the gradient (n, 2, d) before DDP's mean."""
    z = torch.stack((tensor(record["z1"]), tensor(record["z2"])), dim=1).chunk(process_count())[process_rank()]
    z = z.clone().requires_grad_()
    weights = {"invariance": "sim_coeff", "variance": "std_coeff", "covariance": "cov_coeff"}
    config = VICReg.Config(
        hidden_dim=8, output_dim=8, **{f"{name}_weight": record[key] for name, key in weights.items()}
    )
    method = VICReg(config, ToyParts(toy_recipe(4)), 4)
    batch = Batch(views={"first": torch.zeros(len(z), 1)}, samples=torch.from_numpy(np.arange(len(z))), epoch=0, seed=0)
    outputs = method.loss({"z": z}, {}, batch)
    outputs["loss"].backward()
    assert z.grad is not None
    return float(outputs["loss"].detach()), z.grad


def told_gradient(record: dict[str, Any]) -> torch.Tensor:
    return torch.stack([tensor(record[f"gradient_z{view}"]) for view in (1, 2)], dim=1)


@pytest.mark.parametrize("record", GOLDEN["loss"])
def test_loss_and_gradient_are_those_of_the_authors(record):
    loss, gradient = loss_and_gradient(record)
    assert loss == pytest.approx(record["loss"], rel=EXACT)
    assert relative_error(gradient, told_gradient(record)) < EXACT


def test_two_processes_have_the_authors_gradients_and_the_mean_of_their_losses():
    (record,) = GOLDEN["two_processes"]
    found = run_distributed(2, loss_and_gradient, record)
    for (loss, gradient), told in zip(found, record["per_process"], strict=True):
        assert relative_error(gradient, told_gradient(told)) < EXACT
        assert loss == pytest.approx(record["one_process"]["loss"], rel=EXACT)
    assert np.mean([told["loss"] for told in record["per_process"]]) == pytest.approx(found[0][0], rel=EXACT)


@pytest.mark.parametrize(("rows", "features"), [(5, 12), (12, 5)])
def test_covariances_from_the_smaller_matrix_are_those_of_the_covariance_matrix(rows, features):
    z = torch.randn(rows, features, dtype=torch.float64)
    matrix = torch.cov(z.T)
    off_diagonal = matrix - matrix.diagonal().diag()
    assert covariances(z).item() == pytest.approx(off_diagonal.square().sum().item() / features, rel=EXACT)
