"""What a step allocates, computes and sends, seen operator by operator.

torch's own ``torch.distributed._tools.mem_tracker.MemTracker`` gives the same peaks (``benchmarks/plan.py
--tracker``), but keeps hooks on every module and tensor and knows neither operations nor collectives: one small mode
sees all.
"""

import sys
import weakref
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

_COLLECTIVES = {
    "_allgather_base_": "all_gather",
    "allgather_": "all_gather",
    "allreduce_": "all_reduce",
    "_reduce_scatter_base_": "reduce_scatter",
}


@dataclass(frozen=True)
class Sent:
    """A kind of collective: what for, which, in which direction of the step."""

    purpose: str
    """``batch norm``, ``loss`` or ``gradients``."""
    collective: str
    """``all_gather``, ``all_reduce`` or ``reduce_scatter``."""
    backward: bool


class StepTracker(TorchDispatchMode):
    """While entered, counts the bytes of living storages by category, their peak, FLOPs and collectives.

    A category is that of the innermost :meth:`category`; with none it is ``loss`` for what the loss makes, else
    ``activations`` in the forward and ``backward`` in the backward pass (recomputed activations included).
    """

    def __init__(self) -> None:
        super().__init__()
        self.living: Counter[str] = Counter()
        """Category -> bytes."""
        self.peak = 0
        self.at_peak: Counter[str] = Counter()
        """``living`` when the total was highest."""
        self.loss_peak = 0
        """The category ``loss`` alone, when it was highest."""
        self.flops = 0
        """Floating-point operations of matrix products and convolutions, two for a multiplication with its addition."""
        self.collectives: Counter[Sent] = Counter()
        """Kind -> number of calls."""
        self.payload: Counter[Sent] = Counter()
        """Kind -> bytes that this process puts in."""
        self._total = 0
        self._category: str | None = None
        self._storages: weakref.WeakKeyDictionary[torch.UntypedStorage, list[Any]] = weakref.WeakKeyDictionary()

    @contextmanager
    def category(self, name: str) -> Iterator[None]:
        """What is allocated in the block counts as ``name``."""
        before, self._category = self._category, name
        try:
            yield
        finally:
            self._category = before

    def retag(self, tensor: Tensor, name: str) -> None:
        """Count the storage of ``tensor`` as ``name`` from now on."""
        entry: list[Any] | None = self._storages.get(tensor.untyped_storage())
        if entry is not None:
            self.living[entry[0]] -= entry[1]
            entry[0] = name
            self.living[name] += entry[1]

    def restart(self) -> None:
        """Forget the peak, the operations and the collectives so far."""
        self.peak, self.at_peak, self.flops = self._total, Counter(self.living), 0
        self.collectives.clear()
        self.payload.clear()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        packet = func._overloadpacket
        if packet in flop_registry:
            self.flops += flop_registry[packet](*args, **(kwargs or {}), out_val=result)
        elif func.namespace == "c10d":
            self._note_collective(packet.__name__, args)
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._note_storage(leaf.untyped_storage())
        if self._total > self.peak:
            self.peak, self.at_peak = self._total, Counter(self.living)
        return result

    def _note_storage(self, storage: torch.UntypedStorage) -> None:
        if storage in self._storages:
            return
        entry: list[Any] = [self._category or _default_category(), storage.nbytes()]
        self._storages[storage] = entry
        self.living[entry[0]] += entry[1]
        self._total += entry[1]
        self.loss_peak = max(self.loss_peak, self.living["loss"])
        weakref.finalize(storage, self._forget, entry).atexit = False

    def _forget(self, entry: list[Any]) -> None:
        self.living[entry[0]] -= entry[1]
        self._total -= entry[1]

    def _note_collective(self, name: str, args: Any) -> None:
        if name not in _COLLECTIVES:
            raise NotImplementedError(f"the plan cannot count the collective c10d.{name}")
        own = args[1] if _COLLECTIVES[name] != "all_reduce" else args[0]
        kind = Sent(_purpose(), _COLLECTIVES[name], _in_backward())
        self.collectives[kind] += 1
        self.payload[kind] += sum(t.numel() * t.element_size() for t in tree_leaves(own) if isinstance(t, Tensor))


def _in_backward() -> bool:
    return bool(torch._C._current_graph_task_id() != -1)


def _default_category() -> str:
    if _purpose() == "loss":
        return "loss"
    return "backward" if _in_backward() else "activations"


def _purpose() -> str:
    """Which part of the project is calling: the nearest frame of it that is neither a collective nor this package."""
    frame = sys._getframe(1)
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        if name.startswith("simclr_dist.losses"):
            return "loss"
        if name.startswith("simclr_dist.models.batch_norm"):
            return "batch norm"
        if name.startswith(("simclr_dist.training.trainer", "simclr_dist.models", "simclr_dist.optim")):
            return "gradients"
        frame = frame.f_back  # type: ignore[assignment]
    return "gradients"
