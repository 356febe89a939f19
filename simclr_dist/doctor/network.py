"""The processes of a run among themselves: hosts, clocks, collectives, and whether they see one folder."""

import secrets
import socket
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.distributed as dist

from simclr_dist.distributed.agreement import decided_by_first
from simclr_dist.distributed.collectives import gather_objects
from simclr_dist.distributed.cores import own_cores, worker_count
from simclr_dist.distributed.processes import Processes
from simclr_dist.doctor.findings import NOTE, PROBLEM, Finding
from simclr_dist.units import show_bytes, show_rate

_AREA = "processes"
_BYTES = 16 << 20
_REPEATS = 5
_CLOCKS_APART = 1.0


def backends() -> Finding:
    """What torch was built with."""
    there = {"gloo": dist.is_gloo_available(), "nccl": dist.is_nccl_available(), "mpi": dist.is_mpi_available()}
    return Finding(_AREA, "backends", ", ".join(name for name, is_there in there.items() if is_there) or "none")


def loader_workers() -> Finding:
    """How many a process would have; every process calls it, and all get the same answer."""
    counts = gather_objects(worker_count(-1, own_cores()))
    least, most = min(counts), max(counts)
    found = f"{least} a process" if least == most else f"{least} to {most} a process"
    if least > 1 or not any(gather_objects(torch.cuda.is_available())):
        return Finding(_AREA, "loader workers", found)
    cure = "a GPU waits for the images of one core: ask for more, as with --cpus-per-task of submit and srun"
    return Finding(_AREA, "loader workers", found, NOTE, cure)


def findings(here: Processes, device: torch.device, folder: Path) -> Iterator[Finding]:
    """Inside a process group, on every process; all get the same answers."""
    hosts = gather_objects(socket.gethostname())
    counts = {host: hosts.count(host) for host in dict.fromkeys(hosts)}
    hosts_text = ", ".join(f"{count} on {host}" for host, count in counts.items())
    yield Finding(_AREA, "hosts", f"{hosts_text}; {dist.get_backend()} on {device.type}")
    yield loader_workers()
    yield _clocks(hosts)
    yield _sums(device)
    if len(counts) > 1:
        yield _shared_folder(folder, hosts)


def _clocks(hosts: list[str]) -> Finding:
    """How far the clocks differ from that of process 0; true to the time that processes leave a barrier apart."""
    rounds = []
    for _ in range(_REPEATS):
        dist.barrier()
        times = gather_objects(time.time())
        rounds.append([each - times[0] for each in times])
    apart = [statistics.median(each) for each in zip(*rounds, strict=True)]
    rank = max(range(len(apart)), key=lambda each: abs(apart[each]))
    found = f"at most {1e3 * abs(apart[rank]):.1f} ms apart"
    if abs(apart[rank]) < _CLOCKS_APART:
        return Finding(_AREA, "clocks", found)
    cure = f"logs of hosts cannot be compared; the run does not mind: set the clock of {hosts[rank]} (NTP)"
    return Finding(_AREA, "clocks", found, NOTE, cure)


def _sums(device: torch.device) -> Finding:
    numbers = torch.ones(_BYTES // 4, device=device)
    seconds = []
    for _ in range(_REPEATS + 1):
        numbers.fill_(1)
        dist.barrier()
        started = time.perf_counter()
        dist.all_reduce(numbers)
        right = bool((numbers == dist.get_world_size()).all())  # waits for the device, too
        seconds.append(time.perf_counter() - started)
    if not all(gather_objects(right)):
        cure = "the network or a GPU is faulty: leave out one host after the other to find which"
        return Finding(_AREA, "all_reduce", "a sum came out wrong", PROBLEM, cure)
    slowest = max(gather_objects(statistics.median(seconds[1:])))  # the first one connects
    count = dist.get_world_size()
    sent = 2 * (count - 1) / count * _BYTES
    return Finding(
        _AREA, "all_reduce", f"{show_bytes(_BYTES)} in {1e3 * slowest:.1f} ms, {show_rate(sent / slowest)} a process"
    )


def _shared_folder(folder: Path, hosts: list[str]) -> Finding:
    file = folder / decided_by_first(lambda: f".simclr_dist_doctor_{secrets.token_hex(8)}")
    try:
        if dist.get_rank() == 0:
            file.touch()
        dist.barrier()
        sees = gather_objects(file.name in {path.name for path in folder.iterdir()} if folder.is_dir() else False)
    finally:
        if dist.get_rank() == 0:
            file.unlink(missing_ok=True)
    blind = list(dict.fromkeys(host for host, seen in zip(hosts, sees, strict=True) if not seen))
    if blind:
        cure = f"machine.run_dir must be on a file system that all hosts share; {', '.join(blind)} do not see this one"
        return Finding(_AREA, "one folder", f"{folder} is not the same for all", PROBLEM, cure)
    return Finding(_AREA, "one folder", f"{folder} is the same for all hosts")
