"""Groups of some of the processes."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch.distributed as dist

from simclr_dist.distributed.connections import connections_noted

_patience: timedelta | None = None


@contextmanager
def patience_of_groups(patience: timedelta) -> Iterator[None]:
    """The time that a collective may take in the groups made inside."""
    global _patience
    before, _patience = _patience, patience
    try:
        yield
    finally:
        _patience = before


def new_group(ranks: list[int]) -> dist.ProcessGroup | None:
    """A group of these processes; None on the others. All processes must call it, in one order.

    torch itself would give it its backend's timeout, whatever the default group's is.
    """
    # Its collectives run beside those of the default group (DDP's, of the gradients), which NCCL calls safe when it
    # launches them in the order of the host, the same on all processes. Read at NCCL's first communicator.
    os.environ.setdefault("NCCL_LAUNCH_ORDER_IMPLICIT", "1")
    with connections_noted():
        made = dist.new_group(ranks, timeout=_patience)
    return made if isinstance(made, dist.ProcessGroup) else None
