"""Losses of time: the values of TCN's code, plain formulas, and which pairs they are of."""

import math

import pytest
import torch
from torch.nn import functional as F

from simclr_dist.losses.time_contrast import (
    n_pairs,
    near_and_far,
    nearest_is_near,
    nt_xent_in_time,
    semi_hard_triplet,
    without_itself,
)
from tests.support.golden import golden, tensor
from tests.support.processes import relative_error

TCN = golden("tcn")


def times(sequence: list[int], frame: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tensor(sequence), torch.tensor(frame)


@pytest.mark.parametrize("record", TCN["single_view"])
def test_triplets_of_one_camera_are_those_of_tcns_code(record):
    z = tensor(record["embeddings"]).requires_grad_()
    at = times(record["sequences"], record["timesteps"])
    near, far = near_and_far(at, at, record["pos_radius"], record["neg_radius"])
    loss = semi_hard_triplet(z, without_itself(near), far, record["margin"])
    loss.backward()
    assert loss.item() == pytest.approx(record["loss"], rel=1e-6)
    assert relative_error(z.grad, tensor(record["gradient"])) < 1e-6


def test_triplets_of_two_cameras_are_those_of_tcns_code_with_both_windows_0():
    (record,) = TCN["multi_view_triplet"]
    z = tensor(record["embeddings"]).requires_grad_()
    at = times([0] * len(z), record["labels"])
    near, far = near_and_far(at, at, 0, 0)
    loss = semi_hard_triplet(z, without_itself(near), far, record["margin"])
    loss.backward()
    assert loss.item() == pytest.approx(record["loss"], rel=1e-5)
    assert relative_error(z.grad, tensor(record["gradient"])) < 1e-6


def test_n_pairs_are_those_of_the_formula():
    (record,) = TCN["multi_view_npairs"]
    anchors, partners = (tensor(record[name]).requires_grad_() for name in ("anchors", "positives"))
    at = times([0] * len(anchors), list(range(len(anchors))))
    loss = n_pairs(anchors, partners, *near_and_far(at, at, 0, 0), record["l2_reg"])
    loss.backward()
    assert loss.item() == pytest.approx(record["loss"], rel=1e-13)
    assert relative_error(anchors.grad, tensor(record["gradient_anchors"])) < 1e-12
    assert relative_error(partners.grad, tensor(record["gradient_positives"])) < 1e-12


def test_pairs_between_the_windows_neither_attract_nor_repel():
    at = times([0, 0, 0, 0, 1], [0, 2, 3, 4, 0])
    near, far = near_and_far(at, at, 2, 3)
    assert near[0].tolist() == [True, True, False, False, False]
    assert far[0].tolist() == [False, False, False, True, True]


def test_nt_xent_with_one_partner_and_all_else_far_is_a_cross_entropy():
    z = F.normalize(torch.randn(10, 6, generator=torch.Generator().manual_seed(0)).double(), dim=1)
    at = times([0, 0, 1, 1, 2, 2, 3, 3, 4, 4], [0, 1] * 5)
    near, far = near_and_far(at, at, 1, 2)
    logits = (z @ z.T / 0.2).fill_diagonal_(-torch.inf)
    expected = F.cross_entropy(logits, torch.arange(10) ^ 1)
    assert torch.allclose(nt_xent_in_time(z, without_itself(near), far, 0.2), expected, rtol=1e-12)


def test_nt_xent_of_far_rows_that_are_much_nearer_is_exact_in_float64():
    z = torch.eye(2, dtype=torch.float64)[[0, 1, 0]]  # the near row is orthogonal, the far one the same
    at = times([0, 0, 1], [0, 1, 0])
    near, far = near_and_far(at, at, 1, 2)
    made = nt_xent_in_time(z, without_itself(near), far, 0.04)
    # Of row 0 log(1 + exp(25)), of row 1, which both others are orthogonal to, log(2).
    assert float(made) == pytest.approx((math.log1p(math.exp(25)) + math.log(2)) / 2, rel=1e-15)


@pytest.mark.parametrize("loss", [semi_hard_triplet, nt_xent_in_time])
def test_rows_without_near_or_far_ones_count_nothing_and_have_finite_gradients(loss):
    z = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)).double().requires_grad_()
    at = times([0, 0, 0, 0], [0, 1, 2, 3])
    near, far = near_and_far(at, at, 9, 9)
    value = loss(z, without_itself(near), far, 0.2)
    value.backward()
    assert value.item() == 0
    assert torch.equal(z.grad, torch.zeros_like(z))


def test_the_share_is_of_rows_whose_nearest_row_in_direction_is_near_in_time():
    z = torch.tensor([[1.0, 0.0], [2.0, 0.1], [0.0, 1.0], [1.0, 0.2], [1.0, 0.01]])
    at = times([0, 0, 0, 1, 0], [0, 1, 20, 0, 5])  # the last lies between the windows of the first two
    near, far = near_and_far(at, at, 1, 10)
    assert nearest_is_near(z, without_itself(near), far).item() == pytest.approx(1.0)
    z[1] = torch.tensor([0.1, 2.0])
    assert nearest_is_near(z, without_itself(near), far).item() == pytest.approx(0.0)
