"""What a step allocates, computes and sends, seen operator by operator.

torch's own ``torch.distributed._tools.mem_tracker.MemTracker`` gives the same peaks (``benchmarks/plan.py
--tracker``), but keeps hooks on every module and tensor and knows neither operations nor collectives: one small mode
sees all.
"""

import weakref
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from simclr_dist.distributed.watchdog import progress

WORK = ("activations", "backward")
"""What the passes of a chunk work in; the categories are told by :class:`StepTracker`."""
_COLLECTIVES = {
    "_allgather_base_": "all_gather",
    "allgather_": "all_gather",
    "allreduce_": "all_reduce",
    "_reduce_scatter_base_": "reduce_scatter",
    "reduce_scatter_": "reduce_scatter",
    "alltoall_base_": "all_to_all",
    "alltoall_": "all_to_all",
    "broadcast_": "broadcast",
}


@dataclass(frozen=True, kw_only=True)
class Sent:
    """A kind of collective."""

    label: str
    """What it was begun with (:func:`simclr_dist.distributed.watchdog.progress.begin_collective`)."""
    collective: str
    """``all_gather``, ``all_reduce``, ``reduce_scatter``, ``all_to_all``, ``broadcast``, or torch's own name of it."""
    images: int
    """Of all processes that take part, in a step."""


class StepTracker(TorchDispatchMode):
    """While entered, counts the bytes of living storages by category, their peak, FLOPs and collectives.

    A category is that of the innermost :meth:`category`; with none it is ``activations`` in the forward and
    ``backward`` in the backward pass (recomputed activations included). A number that is read from a tensor without
    values (``item()``) is 0.
    """

    def __init__(self, local_images: int = 1) -> None:
        """``local_images``: those of a process in a step."""
        super().__init__()
        self.local_images = local_images
        self.living: Counter[str] = Counter()
        """Category -> bytes."""
        self.peak = 0
        self.at_peak: Counter[str] = Counter()
        """``living`` when the total was highest."""
        self.work_peak = 0
        """The categories :data:`WORK` alone, when they were highest."""
        self.rest_at_peak: Counter[str] = Counter()
        """``living`` but for them, when that was highest."""
        self.loss_peak = 0
        """The category ``loss`` alone, when it was highest."""
        self.flops = 0
        """Floating-point operations of matrix products and convolutions, two for a multiplication with its addition."""
        self.collectives: Counter[Sent] = Counter()
        """Kind -> number of calls."""
        self.payload: Counter[Sent] = Counter()
        """Kind -> bytes that this process puts in."""
        self._total = 0
        self._rest_peak = 0
        self._category: str | None = None
        self._storages: weakref.WeakKeyDictionary[torch.UntypedStorage, list[Any]] = weakref.WeakKeyDictionary()

    @contextmanager
    def category(self, name: str) -> Iterator[None]:
        """What is allocated in the block counts as ``name``."""
        before = self._category
        self.switch(name)
        try:
            yield
        finally:
            self.switch(before)

    def switch(self, name: str | None) -> None:
        """What is allocated from now on counts as ``name``; None: as what it is by itself."""
        self._category = name

    def retag(self, tensor: Tensor, name: str) -> None:
        """Count the storage of ``tensor`` as ``name`` from now on."""
        entry: list[Any] | None = self._storages.get(tensor.untyped_storage())
        if entry is not None:
            self.living[entry[0]] -= entry[1]
            entry[0] = name
            self.living[name] += entry[1]

    def restart(self) -> None:
        """Forget the peak, the operations and the collectives so far."""
        self.restart_peak()
        self.flops = 0
        self.collectives.clear()
        self.payload.clear()

    def restart_peak(self) -> None:
        """Forget the peak so far."""
        self.peak, self.at_peak = self._total, Counter(self.living)
        self.work_peak, self._rest_peak, self.rest_at_peak = 0, 0, Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        try:
            result = func(*args, **(kwargs or {}))
        except DataDependentOutputException:
            if func is not torch.ops.aten._local_scalar_dense.default:
                raise
            return 0.0 if args[0].is_floating_point() else args[0].dtype != torch.bool and 0
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
        work = sum(self.living[name] for name in WORK)
        self.work_peak = max(self.work_peak, work)
        if self._total - work > self._rest_peak:
            self._rest_peak = self._total - work
            self.rest_at_peak = Counter({name: count for name, count in self.living.items() if name not in WORK})
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
        own = _tensors(args[1]) or _tensors(args[0])  # those that write elsewhere have what they read second
        kind = Sent(
            label=progress.current().collective,
            collective=_COLLECTIVES.get(name, name.strip("_")),
            images=_members(args) * self.local_images,
        )
        self.collectives[kind] += 1
        self.payload[kind] += sum(t.numel() * t.element_size() for t in own)


def _tensors(argument: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(argument) if isinstance(leaf, Tensor)]


def _members(args: Any) -> int:
    """Of the process group that stands among a collective's arguments."""
    boxed = next(arg for arg in args if isinstance(arg, torch.ScriptObject) and "ProcessGroup" in str(arg._type()))
    return dist.ProcessGroup.unbox(boxed).size()


def _default_category() -> str:
    return "backward" if torch._C._current_graph_task_id() != -1 else "activations"
