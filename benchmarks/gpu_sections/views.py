"""Views whose colours the device makes, against the CPU renderers: the pixels, and images a second."""

import os
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch

from gpu_sections.here import Here, Row, config_of
from simclr_dist.data.loading.batches import ViewBatches
from simclr_dist.data.loading.order import build_order
from simclr_dist.data.loading.throughput import loader_rate
from simclr_dist.data.rendering.device_ import render_colors
from simclr_dist.data.rendering.renderers import RENDERERS
from simclr_dist.data.sources.base import ArraySource
from simclr_dist.models.kernels import set_kernels


def rows(here: Here) -> Iterator[Row]:
    set_kernels(deterministic=True)
    images, side = here.size((64, 224), (4, 24))
    pictures = _pictures(4 * images, here.size(256, 32))
    recipe = config_of("resnet50", images, side).recipe
    batches = ViewBatches(ArraySource(pictures, None, []), recipe, build_order(recipe, len(pictures)))
    reference = replace(batches, renderer=RENDERERS["torchvision"])[1].views["global"].int()
    crops = replace(batches, colors=False)
    some = crops[1]
    on_device = some.views["global"].to(here.device)
    colored = render_colors(on_device, some.choices["global"])
    for name, views in (("device", colored.cpu()), ("numba", batches[1].views["global"])):
        apart = (views.int() - reference).abs()
        figure = f"{float((apart > 0).float().mean()):.1e} of the pixels differ, by {int(apart.max())} of 255 at most"
        wanted = "0.5 in the mean, as verify" if name == "device" else ""
        mean = float(apart.float().mean())
        holds = mean <= 0.5 if wanted else None
        yield Row(f"pixels, {name} against torchvision", figure, {"mean": mean}, wanted, holds)
    seconds = here.seconds(lambda: render_colors(on_device, some.choices["global"]))
    rate = images / seconds
    yield Row("colours on the device", f"{rate:,.0f} images/s", {"images_per_second": rate})
    workers, time = here.size(len(os.sched_getaffinity(0)), 0), here.size(3.0, 0.05)
    for name, loaded in (("crops alone", crops), ("whole views", batches)):
        _, rate = loader_rate(loaded, workers, time)
        yield Row(f"loader, {name}", f"{rate:,.0f} images/s, {workers} workers", {"images_per_second": rate})


def _pictures(count: int, side: int) -> np.ndarray:
    """uint8 (count, 3, side, side), smooth as photographs are: noise would be all edges."""
    coarse = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.interpolate(coarse, (side, side), mode="bilinear")
    return (255 * smooth).to(torch.uint8).numpy()
