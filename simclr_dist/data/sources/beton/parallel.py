"""Images encoded by several processes, handed out in their order."""

import os
import signal
import threading
import time
from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context

import torch

from simclr_dist.data.sources.base import BrokenImageError, ImageSource
from simclr_dist.data.sources.beton.encode import Encoded, encode
from simclr_dist.data.sources.beton.encoding import Encoding
from simclr_dist.errors import UserError

_CHUNK_IMAGES = 16
_CHUNKS_AHEAD = 4


def encode_in_order(source: ImageSource, encoding: Encoding, workers: int) -> Generator[Encoded | str, None, None]:
    """The payload of each image in their order, or why there is none."""
    chunks = (range(at, min(at + _CHUNK_IMAGES, len(source))) for at in range(0, len(source), _CHUNK_IMAGES))
    if not workers:
        for chunk in chunks:
            yield from _encode_chunk(source, encoding, chunk)
        return
    # Forked, as torch's loader does: a source in memory is not copied.
    executor = ProcessPoolExecutor(workers, get_context("fork"), _start_worker, (source, encoding))
    try:
        ahead: deque[Future[list[Encoded | str]]] = deque()
        for chunk in chunks:
            ahead.append(executor.submit(_work, chunk))
            if len(ahead) > _CHUNKS_AHEAD * workers:
                yield from ahead.popleft().result()
        while ahead:
            yield from ahead.popleft().result()
    except BrokenProcessPool as error:
        raise UserError("a worker was killed, perhaps for want of memory; try fewer with --workers") from error
    finally:
        executor.shutdown(cancel_futures=True)


def _encode_chunk(source: ImageSource, encoding: Encoding, samples: range) -> list[Encoded | str]:
    encoded: list[Encoded | str] = []
    for sample in samples:
        try:
            encoded.append(encode(source, sample, encoding))
        except BrokenImageError as error:
            encoded.append(str(error))
    return encoded


_job: tuple[ImageSource, Encoding]


def _start_worker(source: ImageSource, encoding: Encoding) -> None:
    global _job
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent tells its workers to stop
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=end_with, args=(os.getppid(),), daemon=True).start()
    torch.set_num_threads(1)
    _job = source, encoding


def end_with(parent: int) -> None:
    """End this process when that one, which has started it, is gone; does not return."""
    # A killed parent leaves its workers waiting for work forever: each holds the others' ends of the pipes.
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _work(samples: range) -> list[Encoded | str]:
    return _encode_chunk(*_job, samples)
