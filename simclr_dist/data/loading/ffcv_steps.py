"""Batches of a .beton file through ffcv's own loader and threads, in place of loader workers.

What ffcv 1.0.2 does to the process that it runs in is put back by ffcv_process.py, or kept away in ffcv_pipeline.py;
docs/design/ffcv.md lists it.
"""

import atexit
import time
import warnings
import weakref
from collections.abc import Callable, Generator, Sequence
from functools import partial
from typing import Any

import numba

from simclr_dist.data.loading.batch import Batch
from simclr_dist.data.loading.batches import ViewBatches
from simclr_dist.data.loading.ffcv_process import process_put_back
from simclr_dist.data.loading.workers import TIMEOUT_SECONDS, load_steps, no_batch_in
from simclr_dist.data.rendering.renderers import RENDERERS
from simclr_dist.data.sources.beton.ffcv_source import FfcvSource
from simclr_dist.errors import UserError, first_line
from simclr_dist.log import log

_config: Any = numba.config


def load_views(
    batches: ViewBatches,
    steps: Sequence[int],
    *,
    workers: int,
    pin_memory: bool,
    is_stopped: Callable[[], object] = lambda: None,
    timeout_seconds: float = TIMEOUT_SECONDS,
) -> Generator[Batch, None, None]:
    """Batches of the given steps in order, as :func:`load_steps` makes them; those of source ``ffcv`` by ffcv's loader.

    ``workers`` are then its threads, at least one. machine.renderer=torchvision, the reference, reads image by image;
    so is a method served that asks where the views lie: the pixels are the same.

    Raises:
        UserError: as :func:`load_steps`.
    """
    by_ffcv = isinstance(batches.source, FfcvSource) and not (batches.masks or batches.geometry)
    if by_ffcv and batches.renderer is RENDERERS["numba"]:
        return FfcvViews(batches, workers).load(
            steps, pin_memory=pin_memory, is_stopped=is_stopped, timeout_seconds=timeout_seconds
        )
    return load_steps(
        batches,
        steps,
        workers=workers,
        pin_memory=pin_memory,
        is_stopped=is_stopped,
        timeout_seconds=timeout_seconds,
    )


class FfcvViews:
    """ffcv's loader of one file and one recipe, made at the first :meth:`load`: it is compiled in each process."""

    def __init__(self, batches: ViewBatches, threads: int) -> None:
        self.batches = batches
        most = int(_config.NUMBA_NUM_THREADS)
        self.threads = min(max(1, threads), most)
        if threads > most:
            log.warning("ffcv: %d threads, as numba has no more (asked for: %d); see NUMBA_NUM_THREADS", most, threads)
        self._loader: tuple[Any, int] | None = None

    def load(
        self,
        steps: Sequence[int],
        *,
        pin_memory: bool = False,
        is_stopped: Callable[[], object] = lambda: None,
        timeout_seconds: float = TIMEOUT_SECONDS,
    ) -> Generator[Batch, None, None]:
        """Batches of the given steps in order; the thread that makes them ends with their ``close``, as at an exit.

        Raises:
            UserError: the file was damaged or replaced, no batch came in ``timeout_seconds``, ffcv cannot be imported.
        """
        begun, is_first = time.monotonic(), self._loader is None and self.batches.rank == 0
        if is_first:
            log.info("ffcv: importing it and compiling its loops, as each process does at each start")
        self.batches.prepare()  # what is kept on disk, before there are threads
        with process_put_back():
            pipeline = _imported()
            if self._loader is None:
                self._loader = pipeline.build_loader(self.batches, self.threads)
            iterator = pipeline.StepIterator(*self._loader, self.batches, steps, pin_memory)
        end = partial(_close, weakref.ref(iterator))
        atexit.register(end)  # a thread in compiled code while Python ends could keep the process
        try:
            while (batch := _next(iterator, timeout_seconds, is_stopped)) is not None:
                if is_first:
                    log.info("ffcv: first batch after %.1f s, %d threads", time.monotonic() - begun, self.threads)
                    is_first = False
                yield batch
        finally:
            iterator.close()
            atexit.unregister(end)


def own_rate(batches: ViewBatches, threads: int, seconds: float) -> tuple[float, float]:
    """(seconds to the first batch, images a second after it) of ffcv's own pipeline (ffcv_own.py) on the same file."""
    with process_put_back():
        _imported()
        from simclr_dist.data.loading import ffcv_own

        return ffcv_own.own_rate(batches, max(1, threads), seconds)


def _imported() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of distutils, which it uses
            from simclr_dist.data.loading import ffcv_pipeline
    except ImportError as error:
        raise UserError(
            f"recipe.data.source: ffcv cannot be imported: {first_line(error)}; install what is missing (from Python "
            "3.12 on setuptools, for distutils), or take recipe.data.source=beton, which reads the same file without it"
        ) from error
    return ffcv_pipeline


def _next(iterator: Any, seconds: float, is_stopped: Callable[[], object]) -> Batch | None:
    try:
        found: Batch | None = iterator.next_within(seconds, is_stopped)
    except TimeoutError:
        raise no_batch_in(seconds) from None
    return found


def _close(iterator: Callable[[], Any]) -> None:
    if (living := iterator()) is not None:
        living.close()
