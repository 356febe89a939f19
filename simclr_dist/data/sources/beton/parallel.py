"""Images encoded by several processes, handed out in their order."""

from collections import deque
from collections.abc import Generator
from concurrent.futures import Future

import torch

from simclr_dist.data.sources.base import BrokenImageError, ImageSource
from simclr_dist.data.sources.beton.encode import Encoded, encode
from simclr_dist.data.sources.beton.encoding import Encoding
from simclr_dist.data.sources.worker_pool import worker_pool

_CHUNK_IMAGES = 16
_CHUNKS_AHEAD = 4


def encode_in_order(source: ImageSource, encoding: Encoding, workers: int) -> Generator[Encoded | str, None, None]:
    """The payload of each image in their order, or why there is none."""
    chunks = (range(at, min(at + _CHUNK_IMAGES, len(source))) for at in range(0, len(source), _CHUNK_IMAGES))
    if not workers:
        for chunk in chunks:
            yield from _encode_chunk(source, encoding, chunk)
        return
    with worker_pool(workers, _start_worker, (source, encoding)) as pool:
        ahead: deque[Future[list[Encoded | str]]] = deque()
        for chunk in chunks:
            ahead.append(pool.submit(_work, chunk))
            if len(ahead) > _CHUNKS_AHEAD * workers:
                yield from ahead.popleft().result()
        while ahead:
            yield from ahead.popleft().result()


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
    torch.set_num_threads(1)
    _job = source, encoding


def _work(samples: range) -> list[Encoded | str]:
    return _encode_chunk(*_job, samples)
