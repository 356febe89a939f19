"""Batches of views by step number: the position in the data is the step and nothing else."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from simclr_dist.config import Config, Recipe
from simclr_dist.config.registry import method_class
from simclr_dist.data.loading.batch import Batch
from simclr_dist.data.loading.order import SampleOrder
from simclr_dist.data.rendering.masks import render_masks
from simclr_dist.data.rendering.renderers import RENDERERS, Renderer
from simclr_dist.data.sources.base import IGNORED, BrokenImageError, ImageSource, with_masks
from simclr_dist.data.views.color_choices import choices_of
from simclr_dist.data.views.groups import DrawnGroup, draw_groups
from simclr_dist.data.views.view_geometry import geometry_of
from simclr_dist.random.philox import Purpose, random_words

SUBSTITUTES = 32
ALL_BROKEN = -1
"""In place of the sample id in ``Batch.broken``: an image that was replaced by nothing."""


class _Read(NamedTuple):
    samples: NDArray[np.int64]
    pictures: list[Tensor]
    masks: list[Tensor]
    """Of the pictures, or none at all."""
    broken: list[tuple[int, str]]


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
    masks: bool = False
    """Whether the views have their masks beside them."""
    geometry: bool = False
    """Whether it is told where the views lie in their images."""

    def __getitem__(self, step: int) -> Batch:
        epoch = self.order.epoch(step)
        samples, pictures, masks, broken = self._read_all(self.order.samples(step, self.rank, self.processes), epoch)
        groups = draw_groups(self.recipe, epoch, samples)
        sizes = [(picture.shape[1], picture.shape[2]) for picture in pictures]
        placed = {}
        if self.masks or self.geometry:
            placed = {group.name: geometry_of(sizes, group.parameters) for group in groups}
        labels = None if self.source.labels is None else torch.from_numpy(self.source.labels[samples])
        return Batch(
            views={group.name: self._rendered(pictures, group) for group in groups},
            samples=torch.from_numpy(samples),
            epoch=epoch,
            seed=self.recipe.seed,
            labels=labels,
            masks={group.name: render_masks(masks, placed[group.name], group.side) for group in groups if self.masks},
            geometry=placed if self.geometry else {},
            choices={} if self.colors else {group.name: choices_of(group.parameters) for group in groups},
            color_forms={group.name: group.color_form for group in groups},
            broken=broken,
        )

    def prepare(self) -> None:
        """Render something, so that what is compiled at the first call is compiled in this process."""
        black = torch.zeros(8, 8, 3, dtype=torch.uint8).permute(2, 0, 1)
        group = draw_groups(self.recipe, 0, np.zeros(1, dtype=np.int64))[0]
        (self.renderer.prepare if self.colors else self.renderer.crop)(black, group.parameters[0], 0, group.side)

    def _rendered(self, pictures: list[Tensor], group: DrawnGroup) -> Tensor:
        views = torch.empty(len(pictures), len(group.parameters), 3, group.side, group.side, dtype=torch.uint8)
        for row, picture in enumerate(pictures):
            for view, drawn in enumerate(group.parameters):
                if self.colors:
                    self.renderer.view(picture, drawn, row, group.side, *group.forms, out=views[row, view])
                else:
                    self.renderer.crop(picture, drawn, row, group.side, group.interpolation, out=views[row, view])
        return views

    def _read_all(self, samples: NDArray[np.int64], epoch: int) -> _Read:
        found = _Read(samples, [], [], [])
        for row, sample in enumerate(samples):
            samples[row], picture, mask = self._read(int(sample), epoch, found.broken)
            found.pictures.append(picture)
            found.masks.extend(mask)
        return found

    def _read(self, sample: int, epoch: int, broken: list[tuple[int, str]]) -> tuple[int, Tensor, list[Tensor]]:
        """The image, or a substitute that depends on (seed, epoch, sample id) alone, so that all machines agree."""
        draws = None
        tried = sample
        for attempt in range(SUBSTITUTES + 1):
            try:
                if self.masks and (source := with_masks(self.source)):
                    picture, mask = source.read_with_mask(tried)
                    return tried, picture, [mask]
                return tried, self.source.read(tried), []
            except BrokenImageError as error:
                broken.append((tried, str(error)))
            if draws is None:
                ids = np.array([sample], dtype=np.int64)
                draws = random_words(self.recipe.seed, Purpose.SUBSTITUTE, epoch, ids, 0, SUBSTITUTES)[0]
            if attempt < SUBSTITUTES:
                tried = int(draws[attempt]) % len(self.source)
        broken.append((ALL_BROKEN, f"{SUBSTITUTES} substitutes in a row were broken too"))
        no_mask = [torch.full((1, 1), IGNORED, dtype=torch.uint8)] if self.masks else []
        return sample, torch.zeros(3, 1, 1, dtype=torch.uint8), no_mask


def build_batches(
    config: Config, source: ImageSource, order: SampleOrder, rank: int = 0, processes: int = 1
) -> ViewBatches:
    """One process's share of every global batch, with what the method needs, rendered as the machine says."""
    needs = method_class(config.recipe.method.name).needs
    return ViewBatches(
        source,
        config.recipe,
        order,
        rank,
        processes,
        RENDERERS[config.machine.renderer],
        colors=not config.machine.views_on_device,
        masks="masks" in needs,
        geometry="geometry" in needs,
    )
