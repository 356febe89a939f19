"""How fast views are made, and where the time goes: what ``simclr-dist data bench`` prints."""

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from simclr_dist.data.loading.batches import ViewBatches
from simclr_dist.data.loading.ffcv_steps import load_views, own_rate
from simclr_dist.data.sources.base import BrokenImageError, ImageSource
from simclr_dist.data.sources.beton.ffcv_source import FfcvSource
from simclr_dist.data.sources.beton.source import BetonSource
from simclr_dist.data.views.groups import draw_groups
from simclr_dist.errors import UserError


def stage_seconds(batches: ViewBatches, images: int) -> dict[str, float]:
    """Seconds an image of each stage, in this process and thread, over the first ``images`` of a run.

    Raises:
        UserError: none of them can be read.
    """
    recipe, renderer = batches.recipe, batches.renderer
    steps = range(-(-images // recipe.global_batch_images))
    samples = _whole(batches.source, np.concatenate([batches.order.samples(step) for step in steps])[:images])
    rows = range(len(samples))

    def timed(work: Callable[[], object]) -> float:
        started = time.perf_counter()
        work()
        return (time.perf_counter() - started) / len(rows)

    pictures = [batches.source.read(int(samples[row])) for row in rows]
    groups = draw_groups(recipe, 0, samples)
    out = {group.name: torch.empty(3, group.side, group.side, dtype=torch.uint8) for group in groups}
    drawn = [(row, group, parameters) for row in rows for group in groups for parameters in group.parameters]

    def crops() -> None:
        for row, group, parameters in drawn:
            renderer.crop(pictures[row], parameters, row, group.side, group.interpolation, out=out[group.name])

    def views() -> None:
        for row, group, parameters in drawn:
            renderer.view(pictures[row], parameters, row, group.side, *group.forms, out=out[group.name])

    crops()  # the first calls compile
    views()
    seconds = {
        "read and decode": timed(lambda: [batches.source.read(int(samples[row])) for row in rows]),
        "draw the choices": timed(lambda: draw_groups(recipe, 0, samples)),
        "crop, resize, flip": timed(crops),
    }
    if batches.colors:
        seconds["colours and blur"] = max(0.0, timed(views) - seconds["crop, resize, flip"])
    return seconds


def _whole(source: ImageSource, samples: NDArray[np.int64]) -> NDArray[np.int64]:
    """Those of the samples that are not broken."""
    whole = []
    for sample in samples:
        try:
            source.read(int(sample))
        except BrokenImageError as error:
            reason = str(error)
        else:
            whole.append(sample)
    if not whole:
        raise UserError(f"recipe.data.path: nothing to measure, all images tried are broken, the last one {reason}")
    return np.array(whole, dtype=np.int64)


def stage_table(batches: ViewBatches, images: int) -> str:
    """:func:`stage_seconds` as lines of text."""
    seconds = stage_seconds(batches, images)
    total = sum(seconds.values())
    lines = [f"  {name:20} {1e6 * each:8.1f} us an image  {each / total:6.1%}" for name, each in seconds.items()]
    return "\n".join([*lines, f"  {'together':20} {1e6 * total:8.1f} us an image  {1 / total:,.0f} images/s, one core"])


def loader_rate(batches: ViewBatches, workers: int, seconds: float) -> tuple[float, float]:
    """(seconds to the first batch, images a second after it) of the loader alone, its batches thrown away."""
    started = time.perf_counter()
    with closing(load_views(batches, range(1_000_000_000), workers=workers, pin_memory=False)) as loader:
        next(loader)
        first = time.perf_counter() - started
        images = 0
        while (spent := time.perf_counter() - started - first) < seconds or not images:
            images += len(next(loader))
    return first, images / spent


def beside_ffcv(batches: ViewBatches, workers: int, seconds: float) -> str:
    """The rates of source ``beton`` and of ffcv's own pipeline on the file of source ``ffcv``, as lines of text."""
    source = batches.source
    assert isinstance(source, FfcvSource)
    without = replace(batches, source=BetonSource(source.path, source.rule))
    measured = {
        f"source beton, {workers} worker(s)": loader_rate(without, workers, seconds),
        f"ffcv's own pipeline without colours, {max(1, workers)} thread(s)": own_rate(batches, workers, seconds),
    }
    return "\n".join(
        f"  {name}: {rate:,.0f} images/s; its first batch after {first:.1f} s"
        for name, (first, rate) in measured.items()
    )
