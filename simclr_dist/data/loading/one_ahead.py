"""The next batch is on its way to the GPU while the present one is used."""

from collections.abc import Callable, Generator
from contextlib import closing
from typing import TypeVar

import torch

from simclr_dist.data.loading.batch import Batch

Item = TypeVar("Item")


def on_device(batches: Generator[Batch, None, None], device: torch.device) -> Generator[Batch, None, None]:
    """The batches in a GPU's memory, each copied beside the computations of the step before: one more than without
    is there at a time. On a CPU as they come. Colours that are left to the device are made by the step.
    """
    if device.type != "cuda":
        return batches
    stream = torch.cuda.Stream(device)

    def send(batch: Batch) -> Callable[[], Batch]:
        with torch.cuda.stream(stream):
            copy = batch.copied_to(device)
        copied = stream.record_event()

        def arrived() -> Batch:
            """The copy; what the present stream is given from now on comes after it, and the host does not wait."""
            user = torch.cuda.current_stream(device)
            user.wait_event(copied)
            for tensor in copy.device_tensors:
                tensor.record_stream(user)  # else its memory were the next copy's as soon as the host lets go of it
            return copy

        return arrived

    return one_ahead(batches, send)


def one_ahead(
    items: Generator[Item, None, None], send: Callable[[Item], Callable[[], Item]]
) -> Generator[Item, None, None]:
    """The items as ``send`` lets them arrive; each is sent before the one ahead of it is handed out.

    What an item's making raises is raised where that item is asked for. ``close`` closes ``items`` too.
    """
    with closing(items):
        ahead: list[Callable[[], Item]] = []
        failure: Exception | None = None
        while not failure:
            try:
                ahead.append(send(next(items)))
            except StopIteration:
                break
            except Exception as error:
                failure = error
            if len(ahead) > 1:
                yield ahead.pop(0)()
        while ahead:
            yield ahead.pop(0)()
        if failure:
            raise failure
