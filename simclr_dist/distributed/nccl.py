"""What the environment asks of NCCL that is against a promise of this project, and NCCL's groups given up."""

import os
import threading
import time
from contextlib import suppress

import torch
import torch.distributed as dist

from simclr_dist.distributed.waits import GROUP_IS_OVER
from simclr_dist.log import log

_aborting: list[threading.Thread] = []  # of this process's group, until the next begins


def begin_group() -> None:
    """This process's next group, or none, begins: what was aborted was of the one before."""
    _aborting.clear()


def begin_abort() -> None:
    """Abort NCCL's communicators of all groups, so that neither a kernel nor the host waits for others any more.

    It returns at once, and may be called again and from any thread. Each is aborted in a thread of its own, as one may
    wait for the kernels of another (pytorch#119797). Never run on several GPUs.
    """
    if _aborting or not dist.is_initialized():
        return
    for group in list(dist.distributed_c10d._world.pg_map):
        with suppress(RuntimeError):  # it has none
            backend = group._get_backend(torch.device("cuda"))
            if backend.name() == "nccl":
                _aborting.append(threading.Thread(target=_quietly, args=(backend,), name="aborts a group", daemon=True))
                _aborting[-1].start()


def end_abort(seconds: float) -> bool:
    """Abort, and wait for it; whether it was done in this time."""
    begin_abort()
    deadline = time.monotonic() + seconds
    for thread in _aborting:
        thread.join(max(0.0, deadline - time.monotonic()))
    return not any(thread.is_alive() for thread in _aborting)


def is_aborted() -> bool:
    """Whether this process's group is, or is being: its collectives then end early, with any numbers and no error."""
    return bool(_aborting)


def settle(device: torch.device) -> None:
    """Wait for all that a GPU was given, so that no abort can spoil it any more.

    Raises:
        RuntimeError: the group is aborted, and the numbers may be any.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    refuse_aborted()


def refuse_aborted() -> None:
    """For numbers that have come from the device.

    Raises:
        RuntimeError: as :func:`settle`.
    """
    if is_aborted():
        raise RuntimeError(GROUP_IS_OVER)


def _quietly(backend: dist.Backend) -> None:
    with suppress(Exception):
        backend.abort()  # type: ignore[attr-defined]


def allows_nvls(algorithms: str) -> bool:
    """Whether a value of ``NCCL_ALGO`` lets NCCL reduce in the NVLink switches (NVLS, NVLSTree).

    ``Ring,Tree`` names all that may be used, ``^NVLS`` what may not, ``allreduce:tree;broadcast:ring`` a list for each
    collective (NCCL's documentation of its environment variables).
    """
    lists = [each.rpartition(":")[2].strip().lower() for each in algorithms.split(";")]
    named = [{name.strip() for name in each.removeprefix("^").split(",")} for each in lists]
    return any(
        "nvls" not in names if each.startswith("^") else not names.isdisjoint({"nvls", "nvlstree"})
        for each, names in zip(lists, named, strict=True)
        if each
    )


def warn_of_nvls() -> None:
    """Say that the environment's ``NCCL_ALGO`` takes the place of torch's own choice in deterministic mode, ``^NVLS``.

    Sums in NVLink's switches come out other from call to call (github.com/NVIDIA/nccl/issues/1497).
    """
    algorithms = os.environ.get("NCCL_ALGO", "")
    if allows_nvls(algorithms):
        log.warning(
            "NCCL_ALGO=%s allows NVLS, whose sums differ from run to run: machine.deterministic does not hold; unset "
            "it, or set NCCL_ALGO=^NVLS",
            algorithms,
        )
