"""ffcv's own pipeline as its users run it, to measure beside: crop and flip with its own random numbers, no colours.

Importing this module imports ffcv: see ffcv_steps.py.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ffcv.fields.rgb_image import RandomResizedCropRGBImageDecoder, RGBImageField
from ffcv.loader import Loader, OrderOption
from ffcv.pipeline import PipelineSpec
from ffcv.reader import Reader
from ffcv.transforms import RandomHorizontalFlip, ToTensor

from simclr_dist.data.loading.batches import ViewBatches
from simclr_dist.data.loading.ffcv_process import type_of_flat_arrays_kept
from simclr_dist.data.sources.beton.source import BetonSource


def own_loader(batches: ViewBatches, threads: int) -> Loader:
    """A pipeline for each view of the recipe, of its size and crops: ffcv decodes an image anew for each of them."""
    assert isinstance(batches.source, BetonSource)
    path, recipe = str(batches.source.path), batches.recipe
    names = {name: isinstance(field, RGBImageField) for name, field in Reader(path).handlers.items()}
    image = next(name for name, is_image in names.items() if is_image)
    pipelines: dict[str, Any] = dict.fromkeys(names)
    for group, views in recipe.views.items():
        side = views.side(recipe.data.image_size)
        for number in range(views.count):
            decoder = RandomResizedCropRGBImageDecoder((side, side), (views.crop_area_min, views.crop_area_max))
            steps = [decoder, RandomHorizontalFlip(views.flip_probability), ToTensor()]
            if pipelines[image] is None:
                pipelines[image] = steps
            else:
                pipelines[f"{group}_{number}"] = PipelineSpec(image, transforms=steps)
    share = batches.order.global_batch_images // batches.processes
    with type_of_flat_arrays_kept():
        return Loader(
            path, batch_size=share, num_workers=threads, order=OrderOption.RANDOM, seed=0, pipelines=pipelines
        )


@contextmanager
def own_batches(loader: Loader) -> Iterator[Iterator[Any]]:
    """Batches of one epoch after another without end; the last epoch's thread is ended with the block."""
    epochs: list[Any] = []

    def endless() -> Iterator[Any]:
        while True:
            epochs[:] = [iter(loader)]
            yield from epochs[0]

    try:
        yield endless()
    finally:
        for epoch in epochs:
            epoch.close()


def own_rate(batches: ViewBatches, threads: int, seconds: float) -> tuple[float, float]:
    """(seconds to the first batch, images a second after it) of :func:`own_loader`."""
    started = time.perf_counter()
    loader = own_loader(batches, threads)
    with own_batches(loader) as found:
        next(found)
        first = time.perf_counter() - started
        images = 0
        while (spent := time.perf_counter() - started - first) < seconds or not images:
            next(found)
            images += loader.batch_size
    return first, images / spent
