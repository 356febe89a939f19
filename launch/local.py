"""Several processes on this machine, for one command and without torchrun's noise.

The launcher holds the rendezvous store itself, on a port that the system chose, so no port can be taken between
choosing and using it. Signals are passed on and waited for; when a process fails the others are ended; when the
launcher itself is killed its processes stop at the next step.
"""

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from types import FrameType

from torch._C._distributed_c10d import TCPStore

from simclr_dist.distributed.launchers import LOCAL
from simclr_dist.distributed.run_store import RunStore
from simclr_dist.stop_signals import NOTICES, handle_stop_signals
from simclr_dist.terminal import say

Process = subprocess.Popen[bytes]
_GRACE_SECONDS = 10.0
# Where the others go on, a process that was killed comes back: not at once, as what it died of may go on, nor for ever.
_SECONDS_TO_START, _MOST_STARTS = 5.0, 3


def run_processes(count: int, arguments: Sequence[str], *, goes_on: bool = False) -> int:
    """Run ``simclr-dist ARGUMENTS`` in ``count`` processes that form one process group.

    With ``goes_on`` the others are not ended when one fails: they go on without it.

    Returns:
        0 when all returned 0; otherwise the status of the first that did not (128 + number for a signal). With
        ``goes_on`` 0 when one did; otherwise the status of the last.
    """
    store = loopback_store()
    shared = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "TORCHELASTIC_USE_AGENT_STORE": "True",  # torch's processes then join the store instead of making their own
        "TORCHELASTIC_RESTART_COUNT": "0",
        LOCAL: str(os.getpid()),
    }
    if sys.platform == "linux":
        shared["GLOO_SOCKET_IFNAME"] = os.environ.get("GLOO_SOCKET_IFNAME", "lo")
    command = [sys.executable, "-m", "simclr_dist", *arguments]
    processes: list[Process] = []
    received: list[int] = []

    def start(rank: int) -> Process:
        environment = {**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        return subprocess.Popen(command, env=environment)

    def pass_on(number: int, _: FrameType | None = None) -> None:
        received.append(number)
        for process in processes:
            if process.poll() is None:
                process.send_signal(number if number in NOTICES else signal.SIGTERM)

    # Before there are processes: a signal must not end the launcher and leave them alone.
    before = handle_stop_signals(pass_on)
    try:
        for rank in range(count):
            processes.append(start(rank))
        for number in dict.fromkeys(received):  # those that came meanwhile have not reached all
            pass_on(number)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, NOTICES)  # not earlier: processes begin with them held
        if goes_on:
            return _wait_for_last(processes, store, lambda rank: None if received else start(rank))
        return _wait(processes)
    finally:
        for process in processes:
            process.kill()
            process.wait()
        for number, handler in before.items():
            signal.signal(number, handler)


def loopback_store() -> TCPStore:
    """A store that this machine alone can reach: whoever reaches one may read and write it, and torch's own socket
    listens on every interface, whatever the host's name."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listening:
        port = listening.getsockname()[1]
        return TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False, master_listen_fd=listening.detach())


def _wait(processes: list[Process]) -> int:
    """Until all have ended, or ``_GRACE_SECONDS`` after the first failure."""
    failed, since = 0, 0.0
    while any(process.poll() is None for process in processes):
        for rank, process in enumerate(processes):
            if process.poll() and not failed:
                failed, since = process.returncode, time.monotonic()
                if failed < 0:
                    say(
                        f"{_killed(rank, failed)}; start the same command again to resume from the last checkpoint",
                        err=True,
                    )
        if failed and time.monotonic() > since + _GRACE_SECONDS:
            break
        time.sleep(0.05)
    failed = failed or next((process.returncode for process in processes if process.returncode), 0)
    return failed if failed >= 0 else 128 - failed


def _killed(rank: int, status: int) -> str:
    return f"simclr-dist: process {rank} was killed by {signal.Signals(-status).name}"


def _wait_for_last(processes: list[Process], store: TCPStore, start: Callable[[int], Process | None]) -> int:
    """Until all have ended; the others are told of each end, and one that was killed is started again."""
    records, ended = RunStore(store), dict[int, float]()
    starts = [0] * len(processes)
    while len(ended) < len(processes):
        for rank, process in enumerate(processes):
            if rank not in ended and process.poll() is not None:
                ended[rank] = time.monotonic()
                records.end_of(rank)
                if process.returncode < 0:
                    say(_killed(rank, process.returncode), err=True)
            elif (
                rank in ended
                and process.returncode < 0
                and starts[rank] < _MOST_STARTS
                and time.monotonic() > ended[rank] + _SECONDS_TO_START
            ):
                again = start(rank)
                if again is None:  # the run is being stopped
                    continue
                records.begins_again(rank)
                say(f"simclr-dist: process {rank} is started again", err=True)
                processes[rank], starts[rank] = again, starts[rank] + 1
                del ended[rank]
        time.sleep(0.05)
    statuses = [processes[rank].returncode for rank in sorted(ended, key=lambda rank: ended[rank])]
    failed = 0 if 0 in statuses else statuses[-1]
    return failed if failed >= 0 else 128 - failed


def stop_with_launcher() -> None:
    """In a process of :func:`run_processes`: get SIGTERM when the launcher dies, so that no process is left behind."""
    launcher = os.environ.get(LOCAL)
    if launcher is None or sys.platform != "linux":
        return
    set_parent_death_signal = 1
    ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != int(launcher):  # it died before the call
        os.kill(os.getpid(), signal.SIGTERM)
