"""A copy of a state that later steps do not touch."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor


class StateCopy:
    """Copies of one state after another, into the same memory.

    To fault in fresh pages takes ten times as long as to copy into those that are there.
    """

    def __init__(self) -> None:
        self._copies: list[Tensor] = []

    def of(self, state: Any) -> Any:
        """The same nested state on the CPU, as it is now. The copy made before this one is written over.

        Args:
            state: tensors on any device, numbers and strings, in dicts and lists.
        """
        before, self._copies = iter(self._copies), []

        def copied(tensor: Tensor) -> Tensor:
            self._copies.append(_copied(tensor, before))
            return self._copies[-1]

        copy = mapped(state, copied)
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()  # once: until here the copies of all tensors were only under way
        return copy


def mapped(node: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """A nested state of the same shape with ``function`` of each tensor in its place."""
    if isinstance(node, Tensor):
        return function(node)
    if isinstance(node, dict):
        copied: Any = type(node)((key, mapped(value, function)) for key, value in node.items())
        if hasattr(node, "_metadata"):
            copied._metadata = node._metadata  # of state_dict(); it is saved too
        return copied
    return [mapped(value, function) for value in node] if isinstance(node, list) else node


def _copied(tensor: Tensor, before: Iterator[Tensor]) -> Tensor:
    """A copy into the next one of ``before`` when that is of the same layout, else into new memory."""
    there = next(before, None)
    layout = (tensor.shape, tensor.stride(), tensor.dtype)
    if there is None or (there.shape, there.stride(), there.dtype) != layout:
        # Pinned for a GPU, which then copies while the next copy is being asked for.
        there = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, pin_memory=tensor.is_cuda)
    return there.copy_(tensor.detach(), non_blocking=True)
