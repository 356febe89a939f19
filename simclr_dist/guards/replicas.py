"""Whether all processes still hold the same run: weights, optimizer state and position in the data, to the bit.

All are equal by construction. A faulty memory or GPU, or a node with other images makes them differ, and the run would
continue: the loss hardly shows it. Each process reduces what it holds to three numbers, and one collective compares
them.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from simclr_dist.data.loading.order import SampleOrder
from simclr_dist.distributed.collectives import gather_objects, gather_stacked, process_count
from simclr_dist.distributed.launchers import host_here
from simclr_dist.errors import AgreedError
from simclr_dist.guards.same_config import differing_names, groups

_KINDS = ("sample positions", "weights", "optimizer state")
_PART = 1 << 20
_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_MASK = (1 << 64) - 1
_ODD = 0x9E3779B97F4A7C15  # 2^64 over the golden ratio


class DriftCheck:
    """Compares what the processes hold; every process makes one and calls the same methods."""

    def __init__(
        self, every_steps: int, order: SampleOrder, images: dict[str, Any], model: nn.Module, optimizer: Optimizer
    ) -> None:
        """``every_steps``: 0 for never; ``images``: what describes the data set, as the run folder keeps it."""
        self.every_steps = every_steps
        self.order, self.images, self.model, self.optimizer = order, images, model, optimizer
        self._compared: int | None = None

    def begin(self, steps_done: int, saved: Callable[[], str]) -> None:
        """Compare before the first step: sample positions even where nothing is compared later, as it costs nothing.

        Raises:
            UserError: as :meth:`after_step`.
        """
        if self.every_steps:
            self.compare(steps_done, saved)
        elif process_count() > 1:
            self._compare(steps_done, saved, [self._positions(steps_done)])

    def after_step(self, steps_done: int, saved: Callable[[], str]) -> None:
        """Compare when it is time; ``saved`` says where the last checkpoint is, for the message.

        Raises:
            UserError: on all processes, naming what differs and on which.
        """
        if self.every_steps and steps_done % self.every_steps == 0:
            self.compare(steps_done, saved)

    def compare(self, steps_done: int, saved: Callable[[], str]) -> None:
        """Compare now, unless never or already done after this step.

        Raises:
            UserError: as :meth:`after_step`.
        """
        if not self.every_steps or process_count() == 1 or steps_done == self._compared:
            return
        self._compared = steps_done
        weights, optimizer = digest(_weights(self.model)), digest(self._optimizer())
        self._compare(steps_done, saved, [self._positions(steps_done), weights, optimizer])

    def _compare(self, steps_done: int, saved: Callable[[], str], own: list[int]) -> None:
        """``own``: the first numbers of :data:`_KINDS`, of this process."""
        device = next(self.model.parameters()).device
        digests = torch.tensor([_signed(value) for value in own], device=device)
        found = gather_stacked(digests, label="digests of the drift check").tolist()
        differing = [kind for kind, values in enumerate(zip(*found, strict=True)) if len(set(values)) > 1]
        if differing:
            first = differing[0]
            hosts = gather_objects(host_here())
            raise AgreedError(
                f"the {' and '.join(_KINDS[kind] for kind in differing)} of the processes differ after step "
                f"{steps_done}{self._details(first)}: {groups([values[first] for values in found], hosts)}. "
                f"{_CURES[first]}; {saved()}"
            )

    def _details(self, kind: int) -> str:
        """The tensors that differ: asked for only when something does, so it may be slow."""
        if _KINDS[kind] != "weights":
            return ""
        return differing_names(
            gather_objects({name: digest([value]) for name, value in self.model.state_dict().items()})
        )

    def _positions(self, steps_done: int) -> int:
        """Of the images and the global batch that comes next: ranks with the same number draw parts of the same one.

        A node's copy of the images has other times than another's.
        """
        images = {name: value for name, value in self.images.items() if name != "times"}
        return _number(f"{steps_done} {images} ".encode() + self.order.samples(steps_done).tobytes())

    def _optimizer(self) -> Iterator[Tensor]:
        for group in self.optimizer.param_groups:
            for parameter in group["params"]:
                state = self.optimizer.state.get(parameter, {})
                yield from (value for _, value in sorted(state.items()) if isinstance(value, Tensor))


_BROKEN = (
    "A memory or GPU may be faulty: start again without that host (hosts with unlike processors or GPUs may differ in "
    "last bits; machine.compare_every_steps=0 allows it)"
)
_CURES = ("Give all processes the same images", _BROKEN, _BROKEN)


def digest(tensors: Iterable[Tensor]) -> int:
    """A 64-bit number that any one changed bit changes, and the order of the additions does not.

    Elements are read as integers, multiplied by odd numbers that depend on their position, and added modulo 2^64. Done
    on the tensors' device, a million elements at a time; one transfer a device.
    """
    sums: dict[torch.device, list[Tensor]] = {}
    multipliers: dict[torch.device, Tensor] = {}
    for flat in _joined(tensors):
        needed = min(len(flat), _PART)
        if flat.device not in multipliers or len(multipliers[flat.device]) < needed:
            mixed = torch.arange(1, needed + 1, device=flat.device) * _signed(_ODD)
            multipliers[flat.device] = (mixed ^ (mixed >> 29)) | 1
        for part in flat.view(_INTEGERS[flat.element_size()]).split(_PART):
            product = part.to(torch.int64) * multipliers[flat.device][: len(part)]
            sums.setdefault(flat.device, []).append(product.sum())
    total = 0
    for values in sums.values():
        for value in torch.stack(values).tolist():
            total = (total * _ODD + value) & _MASK
    return total


def _joined(tensors: Iterable[Tensor]) -> Iterator[Tensor]:
    """Neighbours of one kind as one flat tensor, so that hundreds of small ones cost few kernels."""
    waiting: list[Tensor] = []
    for tensor in tensors:
        flat = tensor.detach().reshape(-1)
        alike = not waiting or (waiting[0].dtype, waiting[0].device) == (flat.dtype, flat.device)
        if waiting and (not alike or sum(map(len, waiting)) + len(flat) > _PART):
            yield torch.cat(waiting)
            waiting = []
        waiting.append(flat)
    if waiting:
        yield torch.cat(waiting)


def _weights(model: nn.Module) -> list[Tensor]:
    """Parameters and running statistics: both are equal on all processes after every step."""
    return list(model.state_dict().values())


def _number(content: bytes) -> int:
    return int.from_bytes(hashlib.sha256(content).digest()[:8], "little")


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value
