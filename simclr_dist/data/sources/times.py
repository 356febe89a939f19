"""When the images of a source were taken, and which frame is another's partner: drawn by (seed, epoch, sample id)."""

from dataclasses import dataclass
from functools import cached_property
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

from simclr_dist.config import Recipe
from simclr_dist.config.registry import method_class
from simclr_dist.data.sources.base import ImageSource
from simclr_dist.data.sources.summary import summary
from simclr_dist.data.views.frame_time import FrameTime
from simclr_dist.errors import UserError
from simclr_dist.random.philox import Purpose, uniforms

Numbers = NDArray[np.int64]
_STREAMS = {"near": 0, "camera": 1}


@dataclass(frozen=True)
class FrameTimes:
    """Sequence, frame number and camera of each sample, shape (images,) each."""

    sequence: Numbers
    frame: Numbers
    camera: Numbers

    def of(self, samples: Numbers) -> "FrameTimes":
        """Of some samples, numbered from 0 in their order."""
        return FrameTimes(self.sequence[samples], self.frame[samples], self.camera[samples])

    def tensors(self, samples: Numbers) -> FrameTime:
        """Of some samples, as a batch has it."""
        return FrameTime(*(torch.from_numpy(each[samples]) for each in (self.sequence, self.frame, self.camera)))

    def around(self, sample: int, distance: int) -> Numbers:
        """All samples of its sequence, of any camera, at most ``distance`` frame numbers away; itself too.

        By moment, then by sample id.
        """
        order, begins, moments = self._ordered
        first, behind = begins[self.sequence[sample]], begins[self.sequence[sample] + 1]
        at = self.frame[sample]
        low, high = np.searchsorted(moments[first:behind], [at - distance, at + distance + 1])
        return order[first + low : first + high]

    def candidates(self, sample: int, kind: str, distance: int) -> Numbers:
        """Which samples may be its partner: ``near`` ones of its camera, or those of another ``camera``."""
        around = self.around(sample, distance)
        same = self.camera[around] == self.camera[sample]
        found: Numbers = around[same & (around != sample) if kind == "near" else ~same]
        return found

    def partners(self, samples: Numbers, kind: str, distance: int, drawn: NDArray[np.float64]) -> Numbers:
        """A partner for each sample, all candidates alike likely; a sample without any is its own.

        ``drawn`` are numbers in [0, 1), one a sample.
        """
        found = np.array(samples, dtype=np.int64)
        for row, sample in enumerate(samples):
            candidates = self.candidates(int(sample), kind, distance)
            if len(candidates):
                found[row] = candidates[int(drawn[row] * len(candidates))]
        return found

    def has_partners(self, kind: str, distance: int) -> bool:
        """Whether any sample has a candidate."""
        return any(len(self.candidates(sample, kind, distance)) for sample in range(len(self.frame)))

    def has_far(self, distance: int) -> bool:
        """Whether any two are more than ``distance`` numbers apart, or of different sequences."""
        return bool(np.ptp(self.sequence) or np.ptp(self.frame) > distance)

    @cached_property
    def _ordered(self) -> tuple[Numbers, Numbers, Numbers]:
        """Samples by (sequence, moment, id), where each sequence begins among them, and their moments."""
        order = np.lexsort((self.frame, self.sequence))
        begins = np.searchsorted(self.sequence[order], np.arange(self.sequence.max(initial=-1) + 2))
        return order, begins, self.frame[order]


def times_of(source: ImageSource) -> FrameTimes | None:
    """When its images were taken; None: nobody knows."""
    return cast("FrameTimes | None", getattr(source, "times", None))


def frames_of_group(source: ImageSource, recipe: Recipe, group: str, epoch: int, samples: Numbers) -> Numbers:
    """The sample ids of the pictures that a group of views shows for some samples in an epoch; mostly these."""
    views = recipe.views[group]
    times = times_of(source)
    if views.frame == "own" or times is None:
        return samples
    drawn = uniforms(recipe.seed, Purpose.PARTNER, epoch, samples, _STREAMS[views.frame], 1)[:, 0]
    return times.partners(samples, views.frame, views.frame_distance, drawn)


def refuse_unfit_times(recipe: Recipe, source: ImageSource) -> None:
    """Refuse images without what the recipe asks of their times.

    Raises:
        UserError: no frame has a partner for a group of views, or no two are so far apart that the method's repel.
    """
    times, name_of_source = times_of(source), recipe.data.source
    for name, group in recipe.views.items():
        if group.frame == "own":
            continue
        if times is None:
            raise UserError(
                f"recipe.views.{name}.frame: '{group.frame}' needs images of which it is known when they were taken, "
                f"and those of '{name_of_source}' are none; take source frames or videos"
            )
        if not times.has_partners(group.frame, group.frame_distance):
            cure = {"near": "raise it", "camera": "name the folders of one sequence's cameras NAME_view0, NAME_view1"}
            raise UserError(
                f"recipe.views.{name}.frame_distance: no frame has a partner ('{group.frame}') at most "
                f"{group.frame_distance} frame numbers away; {cure[group.frame]} ({summary(source, name_of_source)})"
            )
    beyond = method_class(recipe.method.name).repels_beyond(recipe.method)
    if times is not None and beyond is not None and not times.has_far(beyond):
        raise UserError(
            f"recipe.method.negative_frames: no frame is more than {beyond} numbers from another or of another "
            f"sequence, so nothing would repel; lower it, or take more sequences ({summary(source, name_of_source)})"
        )
