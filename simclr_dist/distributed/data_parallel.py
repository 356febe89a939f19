"""DistributedDataParallel, with the order of its gradient buckets settled before the first step."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from simclr_dist.distributed.collectives import process_count


def data_parallel(module: nn.Module, device: torch.device) -> nn.Module:
    """``module`` in DDP when there is more than one process, else itself.

    Buffers are not broadcast: running statistics are equal on all processes by construction.
    """
    if process_count() == 1:
        return module
    return DistributedDataParallel(
        module,
        device_ids=[device.index] if device.type == "cuda" else None,
        forward_sync_buffers=False,
        gradient_as_bucket_view=True,
    )


def settle_buckets(parallel: nn.Module, buffers: Sequence[Tensor], backward: Callable[[], object]) -> None:
    """Let DDP do its one reordering of the gradient buckets now, by a backward pass that leaves no trace.

    After its first backward DDP lays its buckets anew, in the order in which gradients became ready. A gradient then
    stands elsewhere in the ring, its terms are added in another order, and with more than two processes the last bit
    moves: a resumed run, whose first step has the first layout again, would not be bit-equal to one that never
    stopped (docs/design/bit_equality.md compares the ways out). ``backward`` runs a forward and backward pass on
    any input; ``buffers`` are those that it moves.
    """
    if not isinstance(parallel, DistributedDataParallel):
        return
    kept = [buffer.clone() for buffer in buffers]
    # Without a list torch would keep the generator of every GPU that it sees, and warn in each process.
    with torch.random.fork_rng(devices=list({p.device for p in parallel.parameters() if p.device.type == "cuda"})):
        backward()
    for buffer, before in zip(buffers, kept, strict=True):
        buffer.copy_(before)
    parallel.zero_grad(set_to_none=True)
