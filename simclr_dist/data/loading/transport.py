"""How a batch comes from a worker: in shared memory or, where /dev/shm has no room, in an unnamed temporary file.

torch puts a batch into shared memory in a thread of its queue, which prints a traceback and drops the batch when there
is no room. Here it is done before, in the worker itself.
"""

import dataclasses
import mmap
import tempfile
from collections.abc import Iterator
from multiprocessing.reduction import DupFd
from typing import Any

import torch
from torch import Tensor

from simclr_dist.errors import UserError, first_line
from simclr_dist.log import log


class Transport:
    """Called in a worker with a batch: what to put into the queue, which arrives as the batch."""

    def __init__(self) -> None:
        self._said = mmap.mmap(-1, 1)  # of all workers together, as they begin as copies of one process

    def __call__(self, batch: Any) -> Any:
        """The batch with its tensors in shared memory, or on its way through a file.

        Raises:
            UserError: there is no room in either.
        """
        try:
            for tensor in tensors_of(batch):
                tensor.share_memory_()
        except (RuntimeError, OSError) as error:
            carried = _InFile(batch, first_line(error))
            if not self._said[0]:
                self._said[0] = 1
                log.warning(
                    "/dev/shm has no room for a batch (%s): it goes through %s, which is slower; give the container "
                    "--shm-size or --ipc=host, or lower machine.loader_workers",
                    first_line(error), tempfile.gettempdir(),
                )  # fmt: skip
            return carried
        return batch


class _InFile:
    """A batch in a file without a name: nothing of it is left whatever ends the processes."""

    def __init__(self, batch: Any, reason: str) -> None:
        try:
            self._file = tempfile.TemporaryFile()  # noqa: SIM115 open until it is received
            torch.save(batch, self._file)
            self._file.flush()
        except (RuntimeError, OSError) as error:  # torch's own error of a write that fails is the first
            there = f"{tempfile.gettempdir()} ({first_line(error)})"
            raise UserError(
                f"a batch fits neither into /dev/shm ({reason}) nor into {there}: make room "
                "(containers: --shm-size), or set machine.loader_workers=0"
            ) from error

    def __reduce__(self) -> tuple[Any, ...]:
        return _from_file, (DupFd(self._file.fileno()),)


def _from_file(descriptor: Any) -> Any:
    with open(descriptor.detach(), "rb") as file:
        file.seek(0)
        return torch.load(file, weights_only=False)  # written by a worker of this process


def tensors_of(item: Any) -> Iterator[Tensor]:
    """All tensors in a batch: a dataclass, tuples, lists and dicts of them, at any depth."""
    if isinstance(item, Tensor):
        yield item
    elif isinstance(item, dict):
        for each in item.values():
            yield from tensors_of(each)
    elif isinstance(item, tuple | list):
        for each in item:
            yield from tensors_of(each)
    elif dataclasses.is_dataclass(item):
        for each in vars(item).values():
            yield from tensors_of(each)
