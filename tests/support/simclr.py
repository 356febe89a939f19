"""SimCLR around an encoder and a head that a test has made, and batches of views that it has drawn."""

from typing import Any

import torch
from torch import Tensor, nn

from simclr_dist.data.loading.batch import Batch
from simclr_dist.methods.simclr import SimCLR


class _Made:
    """In place of ``Parts``."""

    def __init__(self, encoder: nn.Module, head: nn.Module) -> None:
        self._encoder, self._head = encoder, head

    def encoder(self) -> nn.Module:
        return self._encoder

    def projection(self, input_dim: int, keys: object) -> nn.Module:
        return self._head


def simclr_of(encoder: nn.Module, head: nn.Module, **keys: Any) -> SimCLR:
    """``keys`` are those of recipe.method; the encoder has its ``output_dim``."""
    return SimCLR(SimCLR.Config(**keys), _Made(encoder, head), images=0)


def batch_of(views: Tensor) -> Batch:
    """Views (images, 2, 3, side, side) of the first sample ids."""
    return Batch(views={"global": views}, samples=torch.arange(len(views)), epoch=0, seed=0)
