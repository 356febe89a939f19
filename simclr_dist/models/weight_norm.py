"""A linear layer whose rows have a direction and a length of their own."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class WeightNormedLinear(nn.Module):
    """Weight normalisation (Salimans and Kingma 2016, arXiv 1602.07868, equation 2), without a bias.

    Rows of the weight are length * direction / |direction|; directions start as torch's linear layers do, lengths at 1.
    """

    def __init__(self, input_dim: int, output_dim: int, *, trained_length: bool) -> None:
        """Without ``trained_length`` every row keeps the length 1."""
        super().__init__()
        self.direction = nn.Parameter(nn.Linear(input_dim, output_dim, bias=False).weight.detach())
        self.length = nn.Parameter(torch.ones(output_dim, 1), requires_grad=trained_length)

    def forward(self, rows: Tensor) -> Tensor:
        """Rows (n, input_dim) to (n, output_dim)."""
        return F.linear(rows, self.length * F.normalize(self.direction, dim=1))
