"""How the processes of one srun find each other: process 0 takes a free port and says so in a file.

A port computed from the job's number, as is common, may be taken, and comes again after a requeue. torchrun, mpirun and
this project's local launcher set MASTER_ADDR and MASTER_PORT, and no file is written.
"""

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path

from torch._C._distributed_c10d import TCPStore
from torch.distributed import DistError
from torch.distributed.rendezvous import rendezvous

from simclr_dist.distributed.launchers import SRUN, host_here, launcher_here
from simclr_dist.errors import UserError, first_line
from simclr_dist.storage.atomic import write_atomically
from simclr_dist.storage.exclusive import create_exclusively
from simclr_dist.storage.temporary import temporary_name

FOLDER = "SIMCLR_DIST_RENDEZVOUS"
"""Variable with a folder that all nodes share; default: the working directory."""
_SECONDS = 300.0
_SECONDS_TO_CONNECT = 5.0
SHORTEST = timedelta(seconds=60)
"""To meet at the start, however short a collective may take: processes do not start at once."""


@contextmanager
def meeting_point(rank: int, count: int, timeout: timedelta, file: Path | None = None) -> Iterator[TCPStore]:
    """The store through which all processes meet: where MASTER_ADDR and MASTER_PORT say, else by a file.

    Args:
        rank: of this process.
        count: of processes.
        timeout: how long they wait for each other.
        file: where process 0 says where its store is, whatever the environment says.

    Raises:
        UserError: neither they nor a file that all see, or not all processes come there.
    """
    if file is not None:
        yield from _by_file(rank, count, timeout, file)
        return
    timeout = max(timeout, SHORTEST)
    if "MASTER_ADDR" in os.environ and "MASTER_PORT" in os.environ:
        host, port = os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]
        where = f"MASTER_ADDR, MASTER_PORT: {host}:{port}"
        if not (port.isdecimal() and int(port) < 2**16):
            raise UserError(f"{where}: a port is a number up to 65535")
        if rank or not first_holds_store():
            _wait_until_open(host, port, where, timeout)
        with _as_user_error(where, timeout):
            store, _, _ = next(rendezvous("env://", rank, count, timeout=timeout))
        yield store
        return
    launcher = launcher_here()
    if launcher is None or launcher.name != SRUN:
        raise UserError(
            f"MASTER_ADDR, MASTER_PORT: {launcher.name if launcher else 'the launcher'} does not say where the "
            "processes meet; give all of them the host of process 0 and a free port there"
        )
    yield from _by_file(rank, count, timeout, _file_of_step())


def start_of_step() -> str:
    """A name of this start of a job step, the same in all of its processes."""
    # A requeued job keeps its number, and a job may have several steps.
    return "_".join(os.environ.get(name, "0") for name in ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT"))


def _file_of_step() -> Path:
    return Path(os.environ.get(FOLDER, ".")).absolute() / f".simclr_dist_{start_of_step()}"


def leave_status(status: int, *, is_first: bool) -> None:
    """For the batch script of a run that goes on without lost processes: srun's status is that of the worst one.

    ``is_first``: this process speaks for the run; what another says counts where that one was of another job.
    """
    if FOLDER in os.environ:
        file = _file_of_step().with_name(f"{_file_of_step().name}.status")
        said = f"{status}\n".encode()
        with suppress(OSError):
            if is_first:
                write_atomically(file, said)
            else:
                create_exclusively(file, said, temporary_name(file))


def _by_file(rank: int, count: int, timeout: timedelta, file: Path) -> Iterator[TCPStore]:
    if rank:
        host, port = _wait_for(file, _SECONDS if timeout >= SHORTEST else timeout.total_seconds())
        where = f"{file}: {host}:{port}"
        _wait_until_open(host, port, where, timeout)
        with _as_user_error(where, timeout):
            store = TCPStore(host, int(port), count, is_master=False, timeout=timeout)
        yield store
        return
    store = TCPStore("0.0.0.0", 0, count, is_master=True, wait_for_workers=False, timeout=timeout)
    try:
        write_atomically(file, f"{_own_name()} {store.port}".encode())
    except OSError as error:
        raise UserError(
            f"{file.parent}: cannot be written ({error.strerror}), and the processes meet there; set {FOLDER} to a "
            "folder that all nodes share"
        ) from error
    try:
        yield store
    finally:
        file.unlink(missing_ok=True)


def launchers_store(timeout_seconds: float) -> TCPStore:
    """A connection to the store that this project's local launcher holds."""
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return TCPStore(host, port, is_master=False, timeout=timedelta(seconds=timeout_seconds))


@contextmanager
def _as_user_error(where: str, timeout: timedelta) -> Iterator[None]:
    try:
        yield
    except DistError as error:
        raise UserError(f"{where}: {meeting_failure(str(error), timeout)}") from error


_FAILURES = {
    "EADDRINUSE": "the port is taken by another program on this host, a run that has not ended perhaps; choose another",
    "EACCES": "the port may not be used by this user; choose one above 1023",
}


def meeting_failure(error: str, timeout: timedelta) -> str:
    """Why processes do not meet, in words, by what torch's store says."""
    for name, words in _FAILURES.items():
        if name in error:
            return words
    return (
        f"the processes did not meet there in {timeout.total_seconds():.0f} s: one did not come (see its log), or does "
        "not reach it"
    )


def _wait_until_open(host: str, port: str, where: str, timeout: timedelta) -> None:
    """Until something listens there. torch would wait too, deaf to signals, and end in a page of its C++ stack.

    Raises:
        UserError: there is no such host, or nothing listened there in time.
    """
    deadline = time.monotonic() + timeout.total_seconds()
    reason = ""
    while time.monotonic() < deadline:
        try:
            socket.create_connection((host, int(port)), _SECONDS_TO_CONNECT).close()
        except OSError as error:  # names are often not known yet when a node has just started
            reason = error.strerror or first_line(error)
            time.sleep(0.2)
        else:
            return
    raise UserError(f"{where}: {meeting_failure('', timeout)} ({reason})")


def check_interface() -> None:
    """Look at GLOO_SOCKET_IFNAME, of which gloo complains in C++.

    Raises:
        UserError: this host has no such network interface.
    """
    here = [name for _, name in socket.if_nameindex()]
    for name in filter(None, os.environ.get("GLOO_SOCKET_IFNAME", "").split(",")):
        if name not in here:
            raise UserError(
                f"GLOO_SOCKET_IFNAME: {host_here()} has no network interface {name} (it has {', '.join(here)}); give "
                "one of these, or unset it"
            )


def first_holds_store() -> bool:
    """Whether the store ends with process 0, and not with the launcher."""
    return "MASTER_ADDR" not in os.environ or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"


def _own_name() -> str:
    """Under which the other nodes find this one: SLURM's name for it where that is a host's, else the host's own."""
    name = os.environ.get("SLURMD_NODENAME", "")
    try:
        socket.getaddrinfo(name or None, 0)
        return name or socket.gethostname()
    except OSError:
        return socket.gethostname()


def _wait_for(file: Path, seconds: float) -> tuple[str, str]:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            host, port = file.read_text().split()
            return host, port
        except (OSError, ValueError):
            time.sleep(0.1)
    raise UserError(
        f"{file}: process 0 has not written it in {seconds:.0f} s; it failed (see its log), or the folder is not "
        f"shared by all nodes: set {FOLDER} to one that is"
    )
