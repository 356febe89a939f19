"""Collectives that also work without a process group, where they are the identity.

Sums over processes are taken of gathered values in the order of ranks: every process gets the same bits, and the bits
do not depend on how a library lays out its rings.

Each is noted with a label (watchdog/progress.py), which names it in the message when a process hangs in it.
"""

import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from simclr_dist import compat
from simclr_dist.distributed.waits import finish
from simclr_dist.distributed.watchdog.progress import begin_collective

Value = TypeVar("Value")
_alone = False


def process_count(group: dist.ProcessGroup | None = None) -> int:
    """Processes in the group (None: the default one); 1 where torch.distributed is not initialised, and in alone()."""
    return dist.get_world_size(group) if _has_group() else 1


def process_rank(group: dist.ProcessGroup | None = None) -> int:
    """This process's rank in the group; 0 where torch.distributed is not initialised, and in :func:`alone`."""
    return dist.get_rank(group) if _has_group() else 0


def _has_group() -> bool:
    return not _alone and dist.is_available() and dist.is_initialized()


@contextmanager
def alone() -> Iterator[None]:
    """Inside, this process computes as if it were the only one: no collective of this module waits for another.

    For checks that compare a group with one process. It holds for all threads of the process (backward passes have
    their own), so nothing else may use collectives meanwhile, and what was begun inside must end inside.
    """
    global _alone
    before, _alone = _alone, True
    try:
        yield
    finally:
        _alone = before


def gather_stacked(tensor: Tensor, group: dist.ProcessGroup | None = None, *, label: str = "a gather") -> Tensor:
    """The tensors of all ranks, stacked in front: (processes, *shape). No gradient flows back.

    All ranks must give the same shape. ``label`` names the collective, should a process be lost in it.
    """
    if process_count(group) == 1:
        return tensor.unsqueeze(0)
    begin_collective(label)
    return _gather_stacked(tensor, group)


def gather_objects(value: Value, *, label: str = "an exchange") -> list[Value]:
    """One picklable object of every rank, in order. Slow: for events, not for steps."""
    if process_count() == 1:
        return [value]
    begin_collective(label)
    packed = _packed(value)
    sizes = _gather_stacked(torch.tensor(packed.numel())).tolist()
    padded = packed.new_zeros(max(sizes))
    padded[: packed.numel()] = packed
    rows = _gather_stacked(padded)
    return [_unpacked(row[:size]) for row, size in zip(rows, sizes, strict=True)]


def from_first(value: Value, *, label: str = "a value of process 0") -> Value:
    """Rank 0's picklable object, on every rank."""
    if process_count() == 1:
        return value
    begin_collective(label)
    is_first = process_rank() == 0
    packed = _packed(value if is_first else None)
    size = torch.tensor(packed.numel())
    _run(dist.broadcast, size, src=0)
    packed = packed if is_first else packed.new_empty(int(size))
    _run(dist.broadcast, packed, src=0)
    first: Value = value if is_first else _unpacked(packed)
    return first


def copy_first(tensors: Sequence[Tensor], *, label: str) -> None:
    """Give every rank rank 0's numbers, in place."""
    if process_count() == 1:
        return
    begin_collective(label)
    for tensor in tensors:
        # The collective asks for numbers that lie in one row: these may have to be copied.
        row = tensor.detach().reshape(-1)
        _run(dist.broadcast, row, src=0)
        if row.data_ptr() != tensor.data_ptr():
            tensor.detach().copy_(row.view(tensor.shape))


def sum_in_place(tensor: Tensor, *, label: str) -> None:
    """Give every rank the sum over ranks. Its last bit depends on the number of ranks: for what tolerates that."""
    if process_count() > 1:
        begin_collective(label)
        _run(dist.all_reduce, tensor)


def maximum(values: list[float], *, label: str = "the agreement at the start of a step") -> list[float]:
    """Element by element, the largest over all ranks: one collective, and every rank gets the same answer.

    On the CPU, whatever the training device: in every step the host would wait there for all that a GPU has to do.
    """
    if process_count() == 1:
        return values
    begin_collective(label)
    tensor = torch.tensor(values, dtype=torch.float64)
    _run(dist.all_reduce, tensor, op=dist.ReduceOp.MAX)
    return [float(value) for value in tensor.tolist()]


def _gather_stacked(tensor: Tensor, group: dist.ProcessGroup | None = None) -> Tensor:
    # An aborted collective of NCCL's leaves parts as they were, and indices of any value would end the GPU's context.
    empty = torch.empty if tensor.is_floating_point() else torch.zeros
    gathered = empty(process_count(group) * tensor.numel(), dtype=tensor.dtype, device=tensor.device)
    _run(compat.all_gather_single, gathered, tensor.contiguous().view(-1), group=group)
    return gathered.view(-1, *tensor.shape)


def _run(collective: Callable[..., Any], tensor: Tensor, *arguments: Any, **options: Any) -> None:
    if tensor.is_cuda:
        collective(tensor, *arguments, **options)
    else:
        finish(collective(tensor, *arguments, **options, async_op=True), options.get("group"))


def _packed(value: Any) -> Tensor:
    return torch.frombuffer(bytearray(pickle.dumps(value)), dtype=torch.uint8)


def _unpacked(packed: Tensor) -> Any:
    return pickle.loads(packed.numpy().tobytes())
