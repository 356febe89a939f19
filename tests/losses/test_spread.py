"""How much of their space embeddings fill, against the formulas."""

import pytest
import torch

from simclr_dist.losses.spread import rank_me


@pytest.mark.parametrize("shape", [(20, 6), (6, 20), (7, 7)])
def test_rank_me_is_the_exponential_of_the_entropy_of_the_singular_values(shape):
    z = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 1
    singular = torch.linalg.svdvals(z)
    shares = singular / singular.sum()
    assert float(rank_me(z)) == pytest.approx(float((-(shares * shares.log()).sum()).exp()), rel=1e-7)


def test_rank_me_is_1_on_a_line_and_the_size_when_all_directions_are_alike():
    line = torch.arange(1.0, 9)[:, None] * torch.ones(1, 5)
    assert float(rank_me(line)) == pytest.approx(1, abs=1e-5)
    assert float(rank_me(3 * torch.eye(8)[:, :5])) == pytest.approx(5)
    assert float(rank_me(torch.zeros(8, 5))) == 1
