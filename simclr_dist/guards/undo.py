"""The update of a step whose numbers are not known yet, and how it is taken back to the bit."""

from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from simclr_dist.models.batch_norm import copy_all


class Undo:
    """What an optimizer's next step may change: its parameters, their state, and the groups' numbers (the rates).

    Made before the step, on the parameters' devices and without waiting for them; it holds a copy of all tensors, so
    let go of it as soon as it is known whether the step stands.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer
        self._groups = [{key: group[key] for key in group if key != "params"} for group in optimizer.param_groups]
        self._state: dict[Tensor, dict[str, Any]] = {key: dict(state) for key, state in optimizer.state.items()}
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        state = [value for each in self._state.values() for value in each.values() if isinstance(value, Tensor)]
        self._tensors = [*parameters, *state]
        # One by one they would be hundreds of kernels.
        self._values = [torch.empty_like(tensor, requires_grad=False) for tensor in self._tensors]
        self._copy(into=self._values, values=self._tensors)

    def put_back(self) -> None:
        """Take the step back; state that did not exist before it does not exist afterwards. Gradients stay."""
        self._copy(into=self._tensors, values=self._values)
        self._optimizer.state.clear()
        self._optimizer.state.update({key: dict(state) for key, state in self._state.items()})
        for group, before in zip(self._optimizer.param_groups, self._groups, strict=True):
            group.update(before)

    @torch.no_grad()
    def _copy(self, into: list[Tensor], values: list[Tensor]) -> None:
        copy_all(into, values)
