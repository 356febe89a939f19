"""InfoNCE and NCE against plain formulas that were checked against published code (tests/golden/README.md)."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from simclr_dist.losses import bank as tiles
from simclr_dist.losses.bank import log_sum_exp, sampled_scores
from simclr_dist.losses.infonce import InfoNCE
from simclr_dist.losses.nce import NCE
from tests.support.golden import golden, tensor
from tests.support.processes import relative_error

GOLDEN = golden("nce")
EXACT = 1e-10


@pytest.mark.parametrize("record", GOLDEN["info_nce"])
def test_infonce_of_a_batch_its_gradients_and_its_bound_are_those_of_the_formula(record):
    query, key = (tensor(record[name]).requires_grad_() for name in ("query", "key"))
    scores = F.normalize(query, dim=1) @ F.normalize(key, dim=1).T / record["temperature"]
    n = len(query)
    true_first = (torch.arange(n)[:, None] + torch.arange(n)) % n
    loss = InfoNCE()(scores.gather(1, true_first)).mean()
    loss.backward()
    assert float(loss.detach()) == pytest.approx(record["loss"], rel=EXACT)
    assert float(InfoNCE.mutual_information_bound(loss, n)) == pytest.approx(record["log_n_minus_loss"], rel=EXACT)
    assert relative_error(query.grad, tensor(record["gradient_query"])) < EXACT
    assert relative_error(key.grad, tensor(record["gradient_key"])) < EXACT


@pytest.mark.parametrize("record", GOLDEN["info_nce_bank"])
def test_infonce_with_negatives_of_each_query_is_that_of_the_formula(record):
    query = tensor(record["query"]).requires_grad_()
    candidates = torch.cat((tensor(record["key"])[:, None], tensor(record["negatives"])), dim=1)
    index = torch.arange(candidates[..., 0].numel()).view(candidates.shape[:2])
    scores = sampled_scores(query, candidates.flatten(0, 1), index)
    loss = InfoNCE()(scores / record["temperature"]).mean()
    loss.backward()
    assert float(loss.detach()) == pytest.approx(record["loss"], rel=EXACT)
    assert relative_error(query.grad, tensor(record["gradient_query"])) < EXACT


@pytest.mark.parametrize("record", GOLDEN["nce"])
def test_nce_and_its_gradient_are_those_of_the_formula(record):
    scores, log_noise = tensor(record["log_model_score"]).requires_grad_(), tensor(record["log_noise_probability"])
    loss = NCE()(scores, log_noise).mean()
    loss.backward()
    assert float(loss.detach()) == pytest.approx(record["loss"], rel=EXACT)
    assert relative_error(scores.grad, tensor(record["gradient_score"])) < EXACT
    bound = math.log(record["noise_per_sample"]) - record["loss"]
    assert float(NCE.mutual_information_bound(loss, record["noise_per_sample"])) == pytest.approx(bound, rel=EXACT)


def test_nce_of_scores_that_are_far_apart_stays_finite_in_float32():
    scores = torch.tensor([[200.0, -200.0, -200.0], [-200.0, 200.0, 0.0]], requires_grad=True)
    loss = NCE()(scores, -math.log(1000)).mean()
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(scores.grad).all()


def gradient_of(rows: Tensor, losses: Tensor) -> Tensor:
    weights = torch.linspace(0.5, 2, len(losses), dtype=losses.dtype)
    return torch.autograd.grad((losses * weights).sum(), rows)[0]


@pytest.mark.parametrize("numbers", [40, 200, 1 << 22])
def test_whatever_the_tiles_scores_sums_ranks_and_gradients_are_those_of_one_matrix(monkeypatch, numbers):
    monkeypatch.setattr(tiles, "TILE_NUMBERS", numbers)
    random = torch.Generator().manual_seed(0)
    bank = F.normalize(torch.randn(37, 8, generator=random, dtype=torch.float64), dim=1)
    rows = F.normalize(torch.randn(5, 8, generator=random, dtype=torch.float64), dim=1).requires_grad_()
    index, own = torch.randint(0, 37, (5, 11), generator=random), torch.tensor([3, 36, 0, 7, 20])
    scores = rows @ bank.T
    plain = scores.detach()
    sampled = sampled_scores(rows, bank, index)
    assert relative_error(sampled.detach(), plain.gather(1, index)) < 1e-14
    per_row = [each.logsumexp(1) for each in (sampled, scores.gather(1, index))]
    assert relative_error(*(gradient_of(rows, each) for each in per_row)) < 1e-14
    positives = plain.gather(1, own[:, None])[:, 0] / 0.07
    total, rank = log_sum_exp(rows, bank, 0.07, positives, own)
    assert relative_error(total.detach(), (plain / 0.07).logsumexp(1)) < 1e-14
    assert torch.equal(rank, (scores > scores.gather(1, own[:, None])).sum(1))
    elsewhere = torch.tensor([0.9, -0.9, 0.3, 0.0, -0.3], dtype=torch.float64) / 0.07
    assert torch.equal(log_sum_exp(rows, bank, 0.07, elsewhere)[1], (plain / 0.07 >= elsewhere[:, None]).sum(1))
    assert relative_error(gradient_of(rows, total), gradient_of(rows, (rows @ bank.T / 0.07).logsumexp(1))) < 1e-13
