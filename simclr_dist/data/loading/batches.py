"""Batches of views by step number: the position in the data is the step and nothing else."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from simclr_dist.config import Config, Recipe
from simclr_dist.config.registry import method_class
from simclr_dist.data.loading.batch import Batch
from simclr_dist.data.loading.order import SampleOrder, ShardOrder
from simclr_dist.data.rendering.masks import render_masks
from simclr_dist.data.rendering.renderers import RENDERERS, Renderer
from simclr_dist.data.sources.base import IGNORED, BrokenImageError, ImageSource, with_masks
from simclr_dist.data.sources.shards.source import ShardSource
from simclr_dist.data.sources.times import frames_of_group, times_of
from simclr_dist.data.views.color_choices import choices_of
from simclr_dist.data.views.groups import DrawnGroup, draw_groups
from simclr_dist.data.views.view_geometry import geometry_of
from simclr_dist.random.philox import Purpose, random_words

SUBSTITUTES = 32
WINDOWS_AHEAD = 4
"""Of shards, the present one among them: more are not fetched ahead, whatever room there is."""
ALL_BROKEN = -1
"""In place of the sample id in ``Batch.broken``: an image that was replaced by nothing."""


class _Read(NamedTuple):
    samples: NDArray[np.int64]
    pictures: list[Tensor]
    masks: list[Tensor]
    """Of the pictures, or none at all."""
    broken: list[tuple[int, str]]

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """(height, width) of the pictures."""
        return [(picture.shape[1], picture.shape[2]) for picture in self.pictures]


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
    time: bool = False
    """Whether it is told when the frames were taken that the views show."""

    def __getitem__(self, step: int) -> Batch:
        epoch = self.order.epoch(step)
        if isinstance(self.source, ShardSource) and isinstance(self.order, ShardOrder):
            ahead = islice(self.order.shards_from(step), WINDOWS_AHEAD * self.order.window_shards)
            self.source.will_read(ahead, self.order.window(step))
        own = self._read_all(self.samples(step), epoch)
        groups = draw_groups(self.recipe, epoch, own.samples)
        shown = self._shown(own, epoch)
        views = {group.name: self.rendered(shown[group.name].pictures, group) for group in groups}
        batch = self.batch_of(epoch, own.samples, groups, views, own.broken)
        if self.time and (times := times_of(self.source)):
            batch = replace(batch, time={name: times.tensors(read.samples) for name, read in shown.items()})
        if not (self.masks or self.geometry):
            return batch
        placed = {group.name: geometry_of(shown[group.name].sizes, group.parameters) for group in groups}
        seen = {
            group.name: render_masks(shown[group.name].masks, placed[group.name], group.side)
            for group in groups
            if self.masks
        }
        return replace(batch, masks=seen, geometry=placed if self.geometry else {})

    def samples(self, step: int) -> NDArray[np.int64]:
        """Sample ids of this process's share of a step's global batch."""
        return self.order.samples(step, self.rank, self.processes)

    def batch_of(
        self,
        epoch: int,
        samples: NDArray[np.int64],
        groups: list[DrawnGroup],
        views: dict[str, Tensor],
        broken: list[tuple[int, str]],
    ) -> Batch:
        """The batch of some images whose ``views`` have been made as ``groups`` says, without masks and geometry."""
        labels = None if self.source.labels is None else torch.from_numpy(self.source.labels[samples])
        return Batch(
            views=views,
            samples=torch.from_numpy(samples),
            epoch=epoch,
            seed=self.recipe.seed,
            labels=labels,
            choices={} if self.colors else {group.name: choices_of(group.parameters) for group in groups},
            color_forms={group.name: group.color_form for group in groups},
            broken=broken,
        )

    def prepare(self) -> None:
        """Render something, so that what is compiled at the first call is compiled in this process."""
        black = torch.zeros(8, 8, 3, dtype=torch.uint8).permute(2, 0, 1)
        group = draw_groups(self.recipe, 0, np.zeros(1, dtype=np.int64))[0]
        (self.renderer.prepare if self.colors else self.renderer.crop)(black, group.parameters[0], 0, group.side)

    def rendered(self, pictures: list[Tensor], group: DrawnGroup) -> Tensor:
        """The views of a group, one picture for each row of what was drawn: uint8 (pictures, count, 3, side, side)."""
        views = torch.empty(len(pictures), len(group.parameters), 3, group.side, group.side, dtype=torch.uint8)
        for row, picture in enumerate(pictures):
            for view, drawn in enumerate(group.parameters):
                if self.colors:
                    self.renderer.view(picture, drawn, row, group.side, *group.forms, out=views[row, view])
                else:
                    self.renderer.crop(picture, drawn, row, group.side, group.interpolation, out=views[row, view])
        return views

    def _shown(self, own: _Read, epoch: int) -> dict[str, _Read]:
        """Group -> the pictures that it shows: the samples' own, or their partners', each read once."""
        read = {own.samples.tobytes(): own}
        found = {}
        for name in self.recipe.views:
            frames = frames_of_group(self.source, self.recipe, name, epoch, own.samples)
            key = frames.tobytes()  # reading replaces the ids of broken ones
            if key not in read:
                read[key] = self._read_partners(frames, own)
                own.broken.extend(read[key].broken)
            found[name] = read[key]
        return found

    def _read_all(self, samples: NDArray[np.int64], epoch: int) -> _Read:
        found = _Read(samples, [], [], [])
        for row, sample in enumerate(samples):
            samples[row], picture, mask = self.read(int(sample), epoch, found.broken)
            found.pictures.append(picture)
            found.masks.extend(mask)
        return found

    def _read_partners(self, frames: NDArray[np.int64], own: _Read) -> _Read:
        """Those of the pictures that were read. A broken one's place has the picture itself, as where it has none: a
        substitute of any sequence would be held for its neighbour by methods that do not look at the time."""
        found = _Read(frames, [], [], [])
        for row, frame in enumerate(frames):
            try:
                picture, mask = self._picture(int(frame))
            except BrokenImageError as error:
                found.broken.append((int(frame), str(error)))
                frames[row], picture, mask = own.samples[row], own.pictures[row], own.masks[row : row + 1]
            found.pictures.append(picture)
            found.masks.extend(mask)
        return found

    def read(self, sample: int, epoch: int, broken: list[tuple[int, str]]) -> tuple[int, Tensor, list[Tensor]]:
        """The image, its id and its mask where masks are wanted; or a substitute that depends on (seed, epoch, sample
        id) alone, so that all machines agree. What was met broken is added to ``broken``."""
        for tried in self._candidates(sample, epoch):
            try:
                return tried, *self._picture(tried)
            except BrokenImageError as error:
                broken.append((tried, str(error)))
        broken.append((ALL_BROKEN, f"{SUBSTITUTES} substitutes in a row were broken too"))
        no_mask = [torch.full((1, 1), IGNORED, dtype=torch.uint8)] if self.masks else []
        return sample, torch.zeros(3, 1, 1, dtype=torch.uint8), no_mask

    def _picture(self, sample: int) -> tuple[Tensor, list[Tensor]]:
        """An image, and its mask where masks are wanted."""
        if self.masks and (source := with_masks(self.source)):
            picture, mask = source.read_with_mask(sample)
            return picture, [mask]
        return self.source.read(sample), []

    def _candidates(self, sample: int, epoch: int) -> Iterator[int]:
        """The image itself, then those that may take its place: of shards, its own shard's first, which is here."""
        yield sample
        ids = np.array([sample], dtype=np.int64)
        draws = random_words(self.recipe.seed, Purpose.SUBSTITUTE, epoch, ids, 0, SUBSTITUTES)[0]
        ranges = [(0, len(self.source))]
        if isinstance(self.source, ShardSource):
            ranges.insert(0, self.source.substitutes(sample))
        for first, count in ranges:
            yield from (first + int(draw) % count for draw in draws)


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
        time="time" in needs,
    )
