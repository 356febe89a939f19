"""What batch norm moves through a GPU's memory: the part of a step that does not grow with a GPU's operations."""

import torch
from torch import Tensor, nn

from simclr_dist.models.batch_norm import norms_of

_FORWARD, _BACKWARD = 3, 5
"""Passes over a layer's elements of torch's kernels for given groups: statistics, read, write; then the gradient and
the input for their sums, both again, and the input's gradient."""


class NormTraffic:
    """Counts the bytes while a step is traced, from the inputs of the layers."""

    def __init__(self, method: nn.Module) -> None:
        self.bytes = 0
        for norm in norms_of(method):
            norm.register_forward_pre_hook(self._count)

    def _count(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        # A layer that is computed again in the backward pass has its way back counted already.
        again = torch._C._current_graph_task_id() != -1
        passes = _FORWARD if again else _FORWARD + _BACKWARD
        self.bytes += passes * inputs[0].numel() * inputs[0].element_size()


def with_chunks(passes_bytes: float) -> float:
    """The bytes when every chunk goes through the forward pass twice."""
    return passes_bytes * (1 + _FORWARD / (_FORWARD + _BACKWARD))
