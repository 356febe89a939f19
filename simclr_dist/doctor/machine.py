"""The host: cores, memory, shared memory, limits, clock and the compiled loops."""

import locale
import os
import resource
import shutil
import socket
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from simclr_dist.doctor.findings import NOTE, PROBLEM, Finding
from simclr_dist.doctor.versions import loads
from simclr_dist.units import show_bytes

_AREA = "host"
_CONTROL_GROUP = Path("/sys/fs/cgroup")


def findings() -> Iterator[Finding]:
    """Everything about this host but its GPUs and its disks."""
    yield Finding(_AREA, "name", f"{socket.gethostname()}, {os.uname().sysname} {os.uname().release}")
    yield _cores()
    yield _memory()
    if Path("/dev/shm").is_dir():
        yield shared_memory(shutil.disk_usage("/dev/shm").total)
    yield from _limits()
    now = datetime.now().astimezone()
    yield Finding(_AREA, "clock", now.isoformat(timespec="seconds"))
    encoding = locale.getpreferredencoding(False)
    utf8 = encoding.lower().replace("-", "") == "utf8"
    cure = () if utf8 else (NOTE, "file names beyond ASCII may be shown wrongly: export LC_ALL=C.UTF-8")
    yield Finding(_AREA, "encoding", encoding, *cure)
    if loads("torch") and loads("numba"):
        yield _compiled_loops()


def _cores() -> Finding:
    present = os.cpu_count() or 1
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else present
    with suppress(OSError, ValueError):
        quota, period = (_CONTROL_GROUP / "cpu.max").read_text(encoding="ascii").split()
        if int(quota) / int(period) < usable:
            return Finding(
                _AREA, "cores", f"{usable} of {present}, of which {int(quota) / int(period):g} cores' time may be used",
                NOTE, "more loader workers and threads than that wait for each other: set machine.loader_workers",
            )  # fmt: skip
    if usable < present:
        cure = "loader workers share these: ask for more with --cpus-per-task, if the job is to have the whole node"
        return Finding(_AREA, "cores", f"{usable} of {present} may be used", NOTE, cure)
    return Finding(_AREA, "cores", f"{usable}")


def _memory() -> Finding:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        sizes = {line.partition(":")[0]: 1024 * int(line.split()[1]) for line in lines}
        total, available = sizes["MemTotal"], sizes["MemAvailable"]
    except (OSError, KeyError, ValueError, IndexError):
        return Finding(_AREA, "memory", "unknown")
    with suppress(OSError, ValueError):
        total = min(total, int((_CONTROL_GROUP / "memory.max").read_text(encoding="ascii")))
    return Finding(_AREA, "memory", f"{show_bytes(total)}, {show_bytes(min(total, available))} of it free")


def shared_memory(size: int) -> Finding:
    """Through it loader workers hand over batches; docker gives 64 MiB by default."""
    found = show_bytes(size)
    if size >= 1 << 30:
        return Finding(_AREA, "/dev/shm", found)
    cure = "loader workers hand over batches there: docker run --ipc=host or --shm-size=8g, or machine.loader_workers=0"
    return Finding(_AREA, "/dev/shm", found, PROBLEM if size <= 64 << 20 else NOTE, cure)


def _limits() -> Iterator[Finding]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    few = soft != resource.RLIM_INFINITY and soft < 1024
    cure = (NOTE, f"loader workers keep files open: ulimit -n {min(hard, 65536)}") if few else ()
    yield Finding(_AREA, "open files", f"{_limit(soft)} ({_limit(hard)} at most)", *cure)
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    pinned = Path("/dev/infiniband").exists() and soft != resource.RLIM_INFINITY
    cure = (
        (NOTE, "InfiniBand needs locked memory; NCCL may fail: ulimit -l unlimited, or ask the admins")
        if pinned
        else ()
    )
    yield Finding(_AREA, "locked memory", "unlimited" if soft == resource.RLIM_INFINITY else show_bytes(soft), *cure)


def _limit(value: int) -> str:
    return "unlimited" if value == resource.RLIM_INFINITY else str(value)


def _compiled_loops() -> Finding:
    from simclr_dist.data.rendering import numba_

    cache = getattr(numba_._view, "_cache", None)
    folder, base = getattr(cache, "cache_path", None), getattr(getattr(cache, "_impl", None), "filename_base", "")
    if folder is None:
        cure = "every process compiles them for some seconds: set NUMBA_CACHE_DIR to a folder that can be written"
        return Finding(_AREA, "compiled loops", "not kept", NOTE, cure)
    if list(Path(folder).glob(f"{base}*.nbi")):
        return Finding(_AREA, "compiled loops", f"kept in {folder}")
    cure = f"the first start here compiles them for about 15 s, and keeps them in {folder}"
    return Finding(_AREA, "compiled loops", "not compiled yet", NOTE, cure)
