"""The thread that ends a process whose main thread waits in vain in a library that raises nothing.

NCCL never does, gloo not always (waits.py). It ends the process with the line of who is lost, or does what it was given
instead; which of these comes first:

- another process has said that it ends, or who is lost, and the main thread has stood still for some seconds since;
- the next process by rank writes no heartbeats, or the store's holder is gone, and the main thread stands: half a
  minute, ten seconds when a stop signal has come. Slow work is no silence: the heartbeats are a thread's;
- the main thread stands for the timeout of collectives, and another process is silent or behind;
- nobody is silent or behind, and the GPU has done nothing for as long and a minute more.

Where the backend raises after its timeout by itself, as gloo, the last two are left to it. Never run on several GPUs.
"""

import threading
import time
from collections.abc import Callable

import torch

from simclr_dist.distributed.ending import end_now
from simclr_dist.distributed.watchdog import progress
from simclr_dist.distributed.watchdog.diagnosis import device_stands, is_lost, is_silent
from simclr_dist.distributed.watchdog.heartbeats import TIMED_OUT, WORKS
from simclr_dist.distributed.watchdog.monitor import LostProcesses
from simclr_dist.terminal import say

_HEARD_SECONDS = 3.0
_SILENT_SECONDS = 30.0
_SILENT_SECONDS_AT_STOP = 10.0
_BEYOND_TIMEOUT_SECONDS = 60.0


def end_when_waiting_in_vain(
    lost: LostProcesses,
    device: torch.device,
    is_stopped: Callable[[], object] = lambda: False,
    instead: Callable[[], object] | None = None,
    *,
    raises: bool = False,
) -> None:
    """From now on a thread ends this process, with the line and status 2, once it waits in vain.

    Args:
        lost: what is heard of the others.
        device: of this process.
        is_stopped: whether a signal has asked the process to stop: something has ended then, most often.
        instead: frees the main thread, which then raises the line.
        raises: whether the backend raises what has lasted longer than its timeout.
    """
    lost.watch_next()
    guard = _Guard(lost, device, is_stopped, instead, raises=raises)
    threading.Thread(target=guard.run, name="guard", daemon=True).start()


class _Guard:
    def __init__(
        self,
        lost: LostProcesses,
        device: torch.device,
        is_stopped: Callable[[], object],
        instead: Callable[[], object] | None = None,
        *,
        raises: bool = False,
    ) -> None:
        self.lost, self.device, self.is_stopped, self.instead, self.raises = lost, device, is_stopped, instead, raises
        self.look_after = float(lost.timeout_seconds)

    def run(self) -> None:
        seen, since = progress.current(), time.monotonic()
        while not self.lost.wait_for_end():
            if progress.current() != seen:
                seen, since = progress.current(), time.monotonic()
                self.look_after = float(self.lost.timeout_seconds)
            line = self._line(time.monotonic() - since)
            if line is not None and progress.current() == seen and not self.lost.is_ending:
                line = self.lost.publish(line)
                if self.instead is not None:
                    self.instead()
                    return
                where = f" (process {self.lost.rank})" if self.lost.rank else ""
                say(f"simclr-dist{where}: {line}", err=True)
                end_now(2)

    def _line(self, stood: float) -> str | None:
        """Why the main thread, which has stood for so many seconds, waits in vain; None: it may not."""
        lost = self.lost
        if lost.heard and stood > _HEARD_SECONDS:
            return lost.heard
        patience = _SILENT_SECONDS_AT_STOP if self.is_stopped() else _SILENT_SECONDS
        if stood > patience:
            # Where the backend raises, a launcher's store that is gone says nothing of the group, which may be whole.
            if lost.holder_is_gone and (lost.held_by_first or not self.raises):
                return lost.holder_lost()
            if lost.next_silent_seconds > patience:
                return lost.find(is_silent, silent_seconds=patience)
        if stood > self.look_after and not self.raises:
            return self._late_line(stood)
        return None

    def _late_line(self, stood: float) -> str | None:
        lost, started = self.lost, time.monotonic()
        lost.state = TIMED_OUT
        line = lost.find(is_lost)
        lost.state = WORKS
        if line is not None:
            return line
        if stood > lost.timeout_seconds + _BEYOND_TIMEOUT_SECONDS and stands(self.device, _BEYOND_TIMEOUT_SECONDS):
            return device_stands(lost.rank, lost.host, progress.current(), stood + time.monotonic() - started)
        # All are busy with long work of their own; or this process is the one that the others wait for, which it cannot
        # say of itself: the next to look must be another.
        self.look_after = stood + lost.timeout_seconds / (1 if lost.looked_itself else 4)
        return None


def stands(device: torch.device, seconds: float) -> bool:
    """Whether a GPU does nothing: what was given to its default stream up to now is not done ``seconds`` later."""
    if device.type != "cuda":
        return False
    with torch.cuda.device(device):
        event = torch.cuda.Event()
        event.record(torch.cuda.default_stream(device))
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if event.query():
            return False
        time.sleep(0.5)
    return True
