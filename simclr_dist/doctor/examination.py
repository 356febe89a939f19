"""All findings of all hosts, as a table and as JSON."""

import json
import socket
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

from simclr_dist import __version__
from simclr_dist.distributed.launchers import ranks_here
from simclr_dist.doctor import gpus, machine, slurm, storage, versions
from simclr_dist.doctor.findings import PROBLEM, Finding, joined, table
from simclr_dist.errors import UserError, first_line
from simclr_dist.progress_bar import ticking_on_terminal
from simclr_dist.storage.atomic import write_atomically
from simclr_dist.terminal import say

_TIMEOUT_SECONDS = 60


def examine(folder: Path, device: str, json_file: Path | None) -> tuple[str, int]:
    """Examine this host and, under a launcher, the others too; every process calls it.

    Returns:
        the text to print, empty on all processes but the first; and the exit status: 1 when something would stop a run.

    Raises:
        UserError: the JSON cannot be written.
    """
    rank, count, local_rank, _ = ranks_here()
    with ticking_on_terminal("examining this machine", active=rank == 0):  # storage and networks may be slow
        own = _of_host(folder) if local_rank == 0 else []
        found = _with_others(own, device, folder) if versions.loads("torch") else own
    if rank:
        return "", 0
    head = {
        "version": __version__,
        "host": socket.gethostname(),
        "time": datetime.now().astimezone().isoformat(timespec="seconds"),
        "processes": count,
    }
    if json_file is not None:
        content = {**head, "findings": [asdict(each) for each in found]}
        try:
            write_atomically(json_file, f"{json.dumps(content, indent=1)}\n".encode())
        except OSError as error:
            say(table(found))
            raise UserError(f"--json: {json_file} cannot be written: {error.strerror}") from error
    return table(found), int(any(each.mark == PROBLEM for each in found))


def _of_host(folder: Path) -> list[Finding]:
    return [
        *versions.findings(), *machine.findings(), *gpus.findings(), *slurm.findings(), *storage.findings(folder)
    ]  # fmt: skip


def _with_others(own: list[Finding], device: str, folder: Path) -> list[Finding]:
    """With the findings of the other hosts, and those about the processes together."""
    from simclr_dist.distributed.collectives import gather_objects
    from simclr_dist.distributed.devices import choose_device
    from simclr_dist.distributed.processes import Processes, process_group
    from simclr_dist.doctor import network

    here = Processes.from_environment()
    if here.count == 1:
        return [*own, network.backends(), network.loader_workers()]
    try:
        where = choose_device(device, here.local_rank)
        with process_group(here, where, _TIMEOUT_SECONDS):
            of_hosts = [(host, each) for host, each in gather_objects((socket.gethostname(), own)) if each]
            return [*joined(of_hosts), network.backends(), *network.findings(here, where, folder)]
    except (UserError, RuntimeError) as error:
        cure = (
            "no run of several processes can start: see the log of the other processes, firewalls, GLOO_SOCKET_IFNAME"
        )
        return [*own, Finding("processes", "process group", first_line(error), PROBLEM, cure)]
