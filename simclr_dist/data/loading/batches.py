"""Batches of views by step number: the position in the data is the step and nothing else."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from simclr_dist.config import Config, Recipe
from simclr_dist.data.loading.order import SampleOrder
from simclr_dist.data.rendering.renderers import RENDERERS, Renderer
from simclr_dist.data.sources.base import BrokenImageError, ImageSource
from simclr_dist.data.views.color_choices import ColorChoices, choices_of
from simclr_dist.data.views.draws import ViewParameters, draw_views
from simclr_dist.random.philox import Purpose, random_words

VIEWS = 2
SUBSTITUTES = 32
ALL_BROKEN = -1


class Batch(NamedTuple):
    """One process's share of a global batch."""

    images: Tensor
    """uint8 of shape (local images, views, 3, side, side); crops still without their colours when there are choices."""
    broken: list[tuple[int, str]]
    """(sample id, name and reason) of each image that could not be read and was replaced; id ALL_BROKEN: by nothing."""
    choices: ColorChoices | None = None
    """Of the colours that the training device has yet to make, with leading dimensions (local images, views)."""


@dataclass
class ViewBatches(Dataset[Batch]):
    """step -> the views of this process's share of that step's global batch."""

    source: ImageSource
    recipe: Recipe
    order: SampleOrder
    rank: int = 0
    processes: int = 1
    renderer: Renderer = RENDERERS["numba"]
    colors: bool = True
    """False: crops, with the choices of their colours beside them."""
    views: int = VIEWS
    """Of each image."""

    def __getitem__(self, step: int) -> Batch:
        epoch = self.order.epoch(step)
        samples = self.order.samples(step, self.rank, self.processes)
        broken: list[tuple[int, str]] = []
        pictures = []
        for row, sample in enumerate(samples):
            samples[row], picture = self._read(int(sample), epoch, broken)
            pictures.append(picture)
        recipe, size = self.recipe.views, self.recipe.data.image_size
        parameters = [draw_views(recipe, self.recipe.seed, epoch, samples, view) for view in range(self.views)]
        images = torch.empty(len(samples), self.views, 3, size, size, dtype=torch.uint8)
        for row, picture in enumerate(pictures):
            for view, drawn in enumerate(parameters):
                self._render(picture, drawn, row, images[row, view])
        return Batch(images, broken, None if self.colors else choices_of(parameters))

    def _render(self, picture: Tensor, parameters: ViewParameters, row: int, out: Tensor) -> None:
        size = self.recipe.data.image_size
        if self.colors:
            self.renderer.view(picture, parameters, row, size, self.recipe.views.color_form, out=out)
        else:
            self.renderer.crop(picture, parameters, row, size, out=out)

    def prepare(self) -> None:
        """Render something, so that what is compiled at the first call is compiled in this process."""
        size = self.recipe.data.image_size
        parameters = draw_views(self.recipe.views, self.recipe.seed, 0, np.zeros(1, dtype=np.int64), 0)
        black = torch.zeros(8, 8, 3, dtype=torch.uint8).permute(2, 0, 1)
        self._render(black, parameters, 0, torch.empty(3, size, size, dtype=torch.uint8))

    def _read(self, sample: int, epoch: int, broken: list[tuple[int, str]]) -> tuple[int, Tensor]:
        """The image, or a substitute that depends on (seed, epoch, sample id) alone, so that all machines agree."""
        draws = None
        tried = sample
        for attempt in range(SUBSTITUTES + 1):
            try:
                return tried, self.source.read(tried)
            except BrokenImageError as error:
                broken.append((tried, str(error)))
            if draws is None:
                ids = np.array([sample], dtype=np.int64)
                draws = random_words(self.recipe.seed, Purpose.SUBSTITUTE, epoch, ids, 0, SUBSTITUTES)[0]
            if attempt < SUBSTITUTES:
                tried = int(draws[attempt]) % len(self.source)
        broken.append((ALL_BROKEN, f"{SUBSTITUTES} substitutes in a row were broken too"))
        return sample, torch.zeros(3, 1, 1, dtype=torch.uint8)


def build_batches(
    config: Config, source: ImageSource, order: SampleOrder, rank: int = 0, processes: int = 1
) -> ViewBatches:
    """One process's share of every global batch, rendered as the machine says."""
    return ViewBatches(
        source,
        config.recipe,
        order,
        rank,
        processes,
        RENDERERS[config.machine.renderer],
        colors=not config.machine.views_on_device,
    )
