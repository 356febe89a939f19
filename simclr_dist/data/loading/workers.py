"""Batches prefetched by worker processes, which end with their loader whatever ends it."""

import atexit
import weakref
from collections.abc import Callable, Generator, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from simclr_dist.stop_signals import ignore_stop_signals, stop_signals_held

Item = TypeVar("Item")


def load_steps(
    batches: Dataset[Item], steps: Sequence[int], *, workers: int, pin_memory: bool
) -> Generator[Item, None, None]:
    """Batches of the given steps in order, prefetched by ``workers`` processes (0: none), which end with its ``close``.

    Raises:
        UserError: as the source does when it reads.
    """
    if workers and hasattr(batches, "prepare"):
        batches.prepare()  # once, not in every worker: they begin as copies of this process
    with stop_signals_held():
        loader = iter(
            DataLoader(
                batches,
                batch_size=None,
                sampler=steps,
                collate_fn=_as_it_is,
                num_workers=workers,
                pin_memory=pin_memory,
                prefetch_factor=2 if workers else None,
                worker_init_fn=_ignore_signals if workers else None,
                generator=torch.Generator(),  # else it draws a seed for its workers from torch's global one
            )
        )
    end = partial(_end_workers, weakref.ref(loader))
    # An exit with the loader open: multiprocessing would send SIGTERM, which the workers ignore, and wait forever.
    atexit.register(end)
    return _ended(loader, end)


def _ended(batches: Iterator[Item], end: Callable[[], object]) -> Generator[Item, None, None]:
    """The batches of a loader whose workers end with them, or with an error."""
    try:
        yield from batches
    finally:
        # An error of a worker holds the iterator in a cycle of frames. When that is collected, the queue through which
        # torch tells the workers to end is closed first, and the process would wait for them forever too.
        end()
        atexit.unregister(end)


def _end_workers(loader: Callable[[], Any]) -> None:
    living = loader()
    if hasattr(living, "_shutdown_workers"):  # without workers torch's iterator has none to end
        living._shutdown_workers()


def _as_it_is(batch: Any) -> Any:
    # torch's own would rebuild every tuple of a batch as a list.
    return batch


def _ignore_signals(_: int) -> None:
    # A stop signal often reaches the whole process group: the trainer finishes its step, so its workers must live on.
    # They end when the trainer closes the loader, or by themselves when their parent is gone.
    ignore_stop_signals()
