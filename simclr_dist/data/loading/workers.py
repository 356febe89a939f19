"""Batches prefetched by worker processes, which are replaced when they die and end with their loader.

No wait here is without end: each looks at once a second whether the run shall stop, whether a worker is gone or has
never begun, and how long it has lasted. torch's own loader waits for a batch that was lost for ever, and raises a
worker's death wherever the trainer is, in the middle of an update too.
"""

import atexit
import multiprocessing.process
import re
import signal
import time
import traceback
import weakref
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Generic, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from simclr_dist.data.loading.begun import Begun
from simclr_dist.data.loading.transport import Transport
from simclr_dist.errors import UserError
from simclr_dist.log import log
from simclr_dist.stop_signals import ignore_stop_signals, stop_signals_held

Item = TypeVar("Item")

TIMEOUT_SECONDS = 1800.0
_POLL_SECONDS = 1.0
_LOSSES_IN_A_ROW = 3
_TIMED_OUT = re.compile(r"DataLoader timed out after")
_WORKER_GONE = re.compile(r"DataLoader worker \(pid.*(exited unexpectedly|is killed by signal)", re.DOTALL)


class _WorkerLostError(Exception):
    """A worker has ended by itself; in words, how."""


def load_steps(
    batches: Dataset[Item],
    steps: Sequence[int],
    *,
    workers: int,
    pin_memory: bool,
    is_stopped: Callable[[], object] = lambda: None,
    timeout_seconds: float = TIMEOUT_SECONDS,
) -> Generator[Item, None, None]:
    """Batches of the given steps in order, prefetched by ``workers`` processes (0: none), which end with its ``close``.

    A worker that dies is replaced, and its batch made again. The batches end early when ``is_stopped()`` while one is
    waited for. Without workers nothing is waited for: a batch is made in the call for it.

    Raises:
        UserError: as the source does when it reads; workers die one after another; no batch came in
            ``timeout_seconds``; there is no room for what processes share.
    """
    if workers and hasattr(batches, "prepare"):
        batches.prepare()  # once, not in every worker: they begin as copies of this process
    begin = partial(_Loader, batches, workers=workers, pin_memory=pin_memory)
    return _delivered(begin(steps), begin, steps, is_stopped, timeout_seconds)


def _delivered(
    loader: "_Loader[Item]",
    begin: Callable[[Sequence[int]], "_Loader[Item]"],
    steps: Sequence[int],
    is_stopped: Callable[[], object],
    timeout_seconds: float,
) -> Generator[Item, None, None]:
    """The batches of a loader, and of those that take its place; the workers end with them, or with an error."""
    done = losses = 0
    try:
        while done < len(steps):
            try:
                found = loader.next_within(timeout_seconds, is_stopped)
            except _WorkerLostError as error:
                losses += 1
                if losses == _LOSSES_IN_A_ROW:
                    raise UserError(
                        f"loader workers ended {losses} times before a batch was made, the last {error}; SIGKILL is "
                        "most often too little memory (dmesg tells): lower machine.loader_workers or give the job "
                        "more; SIGSEGV or SIGBUS an image that its decoder cannot bear: simclr-dist data check"
                    ) from error
                log.warning("a loader worker ended, %s; workers start again from its batch", error)
                loader.end()
                loader = begin(steps[done:])
                continue
            if not found:
                return
            done, losses = done + 1, 0
            yield found.pop()
    finally:
        # An error of a worker holds the iterator in a cycle of frames. When that is collected, the queue through which
        # torch tells the workers to end is closed first, and the process would wait for them forever too.
        loader.end()


def no_batch_in(seconds: float) -> UserError:
    """The error of a wait that has lasted too long."""
    return UserError(
        f"no batch came in {seconds:.0f} s (in a run: machine.batch_timeout_seconds): the storage of the "
        "images does not answer, or loading is slower than that; see simclr-dist data bench"
    )


class _Loader(Generic[Item]):
    """torch's loader over some steps, asked in short waits."""

    def __init__(self, batches: Dataset[Item], steps: Sequence[int], *, workers: int, pin_memory: bool) -> None:
        handler = signal.getsignal(signal.SIGCHLD)
        self._begun = Begun(workers)
        with stop_signals_held():
            try:
                self._iterator: Any = iter(
                    DataLoader(
                        batches,
                        batch_size=None,
                        sampler=steps,
                        collate_fn=Transport() if workers else _as_it_is,
                        num_workers=workers,
                        multiprocessing_context="fork" if workers else None,  # Python 3.14 would not copy this process
                        pin_memory=pin_memory,
                        prefetch_factor=2 if workers else None,
                        worker_init_fn=partial(_begin, self._begun) if workers else None,
                        timeout=_POLL_SECONDS if workers else 0,
                        generator=torch.Generator(),  # else it draws a seed for its workers from torch's global one
                    )
                )
            except OSError as error:  # semaphores stand in /dev/shm, pipes among the open files, workers in memory
                _forget_half_made(error)
                raise UserError(
                    f"loader workers cannot start ({error.strerror}): /dev/shm, the limit of open files or memory is "
                    "used up (simclr-dist doctor); make room, or set machine.loader_workers lower, 0 for none"
                ) from error
        if signal.getsignal(signal.SIGCHLD) is not handler:
            # torch's handler raises in whatever the trainer does when a worker dies; here it is asked at each wait.
            signal.signal(signal.SIGCHLD, handler)
        self._end = partial(_end_workers, weakref.ref(self._iterator))
        # An exit with the loader open: multiprocessing would send SIGTERM, which the workers ignore, and wait forever.
        atexit.register(self._end)

    def next_within(self, seconds: float, is_stopped: Callable[[], object]) -> list[Item]:
        """The next batch, alone in a list; [] when the run stops before it is there.

        Raises:
            UserError: it did not come in time, or its making failed.
            _WorkerLostError: a worker is gone.
        """
        deadline = time.monotonic() + seconds
        while True:
            try:
                return [next(self._iterator)]
            except RuntimeError as error:
                if _WORKER_GONE.match(str(error)):
                    raise _WorkerLostError(self._how_they_ended()) from error
                if not _TIMED_OUT.match(str(error)):
                    raise
            except (OSError, EOFError) as error:
                if str(error).startswith("Caught "):  # raised in the worker, not here
                    raise
                # The worker was gone when the memory of a batch that it had made was asked for.
                raise _WorkerLostError(self._how_they_ended()) from error
            if is_stopped():
                self._kill()
                return []
            if self._begun.standing(self._iterator._workers):
                self._kill()
                raise _WorkerLostError("killed, as it stood still before it began")
            if time.monotonic() > deadline:
                self._kill()
                raise no_batch_in(seconds)

    def _kill(self) -> None:
        """The batches that they make are not wanted any more: do not wait for them."""
        for worker in self._iterator._workers:
            worker.kill()

    def end(self) -> None:
        """End the workers."""
        self._end()
        atexit.unregister(self._end)

    def _how_they_ended(self) -> str:
        for worker in self._iterator._workers:
            with suppress(RuntimeError):  # torch's handler of SIGCHLD tells another one's death here
                worker.join(0.1)  # it may be ending
        statuses = {worker.exitcode for worker in self._iterator._workers} - {None, 0}
        said = [f"killed by {signal.Signals(-each).name}" if each < 0 else f"with status {each}" for each in statuses]
        return " and ".join(sorted(said)) or "by itself"


def _forget_half_made(error: BaseException) -> None:
    """torch's iterator ends its workers when it is collected; where it never came to have any, with a traceback."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        made = frame.f_locals.get("self")
        if isinstance(made, _MultiProcessingDataLoaderIter) and not hasattr(made, "_workers"):
            made._shutdown = True


def _end_workers(iterator: Callable[[], Any]) -> None:
    living = iterator()
    if not hasattr(living, "_shutdown_workers"):  # without workers torch's iterator has none to end
        return
    with suppress(RuntimeError):  # torch's handler of SIGCHLD, where somebody's loader has set it, tells a death here
        living._shutdown_workers()
    for worker in living._workers:
        # One that stands still, or waits for a storage that is gone, has not heard that it shall end.
        if worker.is_alive():
            worker.kill()
            worker.join(_POLL_SECONDS)
        if worker.is_alive():  # not even that is heard in the kernel: at its exit Python would wait for it
            multiprocessing.process._children.discard(worker)  # type: ignore[attr-defined]


def _as_it_is(batch: Any) -> Any:
    # torch's own would rebuild every tuple of a batch as a list.
    return batch


def _begin(begun: Begun, worker: int) -> None:
    begun.note(worker)
    # A stop signal often reaches the whole process group: the trainer finishes its step, so its workers must live on.
    # They end when the trainer closes the loader, or by themselves when their parent is gone.
    ignore_stop_signals()
