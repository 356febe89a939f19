"""DistributedDataParallel, with the order of its gradient buckets settled before the first step."""

from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._C._distributed_c10d import GradBucket
from torch.futures import Future
from torch.nn.parallel import DistributedDataParallel

from simclr_dist.compat import BUFFERS_STAY
from simclr_dist.distributed.collectives import copy_first, process_count
from simclr_dist.distributed.waits import result_of


def data_parallel(module: nn.Module, device: torch.device) -> nn.Module:
    """``module`` in DDP when there is more than one process, else itself; all begin with rank 0's weights.

    Buffers are not broadcast: running statistics are equal on all processes by construction.
    """
    if process_count() == 1:
        return module
    if device.type == "cuda":
        return DistributedDataParallel(module, device_ids=[device.index], gradient_as_bucket_view=True, **BUFFERS_STAY)
    copy_first([*module.parameters(), *module.buffers()], label="the first weights")
    parallel = DistributedDataParallel(module, gradient_as_bucket_view=True, init_sync=False, **BUFFERS_STAY)
    parallel.register_comm_hook(None, _mean)
    return parallel


def _mean(_: None, bucket: GradBucket) -> Future[Tensor]:
    """DDP's own mean of a bucket of gradients over processes, of which the wait can be ended."""
    summed = result_of(dist.all_reduce(bucket.buffer().div_(process_count()), async_op=True))
    return summed.then(lambda done: done.value()[0])


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
