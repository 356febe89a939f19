"""The encoder of a run and the images that the report shows it with."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from simclr_dist.config import Recipe
from simclr_dist.config.registry import load
from simclr_dist.data.loading.broken import broken_files
from simclr_dist.data.rendering.renderers import RENDERERS
from simclr_dist.data.rendering.torchvision_ import render_plain
from simclr_dist.data.sources.base import BrokenImageError, ImageSource, Subset
from simclr_dist.data.sources.named import open_of_recipe
from simclr_dist.data.sources.shards.settings import shards_of_run
from simclr_dist.data.sources.summary import say_what_was_found, summary
from simclr_dist.data.sources.whole import without
from simclr_dist.data.views.groups import draw_groups
from simclr_dist.errors import NotFiniteError, UserError
from simclr_dist.evaluation.feature_blocks import Features
from simclr_dist.evaluation.features import extract_features
from simclr_dist.evaluation.labelled_images import numbered_alike
from simclr_dist.evaluation.subsets import Labels
from simclr_dist.evaluation.untrained import untrained_encoder
from simclr_dist.models.encoder import Encoder
from simclr_dist.reporting import Missing
from simclr_dist.reporting.analysis import Neighbours, nearest
from simclr_dist.reporting.facts import Facts
from simclr_dist.run import checkpoint
from simclr_dist.weights.read import load_encoder

THUMBNAIL = 32
_PAIRS, _NEIGHBOURS = 1000, 20


@dataclass
class ReportContext:
    """An encoder, held-out images, and the images whose neighbours they are."""

    encoder: Encoder
    recipe: Recipe
    steps_done: int
    pretraining: ImageSource
    shown: "ThumbnailedImages"
    bank: ImageSource
    same: bool
    """Whether both are the pretraining images, for want of others."""
    remark: str

    @cached_property
    def features(self) -> Features:
        """Of the shown images."""
        return self._features_of(self.encoder, self.shown)

    @cached_property
    def bank_features(self) -> Features:
        return self.features if self.same else self._features_of(self.encoder, self.bank)

    @cached_property
    def neighbours(self) -> Neighbours:
        """The nearest images of the bank for every image shown."""
        return nearest(self.bank_features, self.features, _NEIGHBOURS, same=self.same)

    @cached_property
    def untrained(self) -> Encoder:
        """The same encoder with random weights."""
        return untrained_encoder(self.recipe, self.pretraining)

    def view_pairs(self, encoder: Encoder) -> tuple[Features, Features]:
        """Features of the first and of the second view of the shown images."""
        views = ViewsAsImages(Subset(self.shown, _spread(len(self.shown), _PAIRS)), self.recipe)
        features = self._features_of(encoder, views)
        return features[::2], features[1::2]

    def _features_of(self, encoder: Encoder, images: ImageSource) -> Features:
        try:
            return extract_features(encoder, images, self.recipe.data.image_size)
        except NotFiniteError as error:
            raise Missing(f"{error}.") from error

    def thumbnail(self, sample: int, *, of_bank: bool) -> Tensor:
        """uint8 (3, side, side) of a shown image, or of one of the bank."""
        source: ImageSource = self.bank if of_bank and not self.same else self.shown.source
        try:
            return small(source.read(sample), self.recipe.data.image_size)
        except BrokenImageError as error:
            raise UserError(f"the report needs every image it shows, and one is broken: {error}") from error


def open_context(run: Facts, images: int) -> ReportContext:
    """The run's newest intact checkpoint and at most ``images`` held-out images.

    Raises:
        Missing: the run has no checkpoint yet, or its images are not here, or a package that its recipe names.
        UserError: no checkpoint is intact.
    """
    if not checkpoint.by_age(run.path / "checkpoints"):
        raise Missing("There is no checkpoint yet.")
    _refuse_missing_packages(run)
    shards = shards_of_run(run.path)
    pretrained = load_encoder(run.path)
    encoder, recipe, steps_done = pretrained.encoder, pretrained.recipe, pretrained.steps_done or 0
    try:
        pretraining = open_of_recipe(recipe, shards)
    except UserError as error:
        raise Missing(f"The images are not here: {error}.") from error
    try:
        held_out, bank = (open_of_recipe(recipe, shards, split) for split in ("test", "train"))
        same = False
    except UserError:
        held_out, bank, same = pretraining, pretraining, True
    if getattr(held_out, "pretrained_on", False):  # a folder without splits: not held out of pretraining
        held_out, bank, same = pretraining, pretraining, True
    say_what_was_found(*(summary(each, recipe.data.source) for each in ([held_out] if same else [bank, held_out])))
    # Pretraining went on without these, and so does evaluate.
    broken = broken_files(run.path, recipe)
    pretraining, held_out, bank = (without(each, broken) for each in (pretraining, held_out, bank))
    if not same and held_out.labels is not None and bank.labels is not None:
        names, labels = numbered_alike(bank, held_out)
        held_out = Subset(held_out, np.arange(len(held_out)))
        held_out.classes, held_out.labels = names, labels
    shown = Subset(held_out, _spread(len(held_out), images))
    kept = shown if same else Subset(bank, _spread(len(bank), 5 * images))
    remark = (
        f"{len(shown)} of {len(held_out)} pretraining images (there are no held-out ones)"
        if same
        else f"{len(shown)} of {len(held_out)} held-out images, beside {len(kept)} of {len(bank)} training images"
    )
    if pretrained.not_the_newest:
        remark += f". Weights of step {steps_done}: {pretrained.not_the_newest}"
    return ReportContext(
        encoder, recipe, steps_done, pretraining, ThumbnailedImages(shown, recipe.data.image_size), kept, same, remark
    )


def _refuse_missing_packages(run: Facts) -> None:
    for part in ("method", "encoder"):
        name = run.config.get(f"recipe.{part}.name")
        if isinstance(name, str) and ":" in name:
            try:
                load(f"recipe.{part}.name", name, {})
            except UserError as error:
                raise Missing(f"The {part} of the run is not here: {error}.") from error


def small(image: Tensor, image_size: int) -> Tensor:
    """As the encoder sees it, at most 64 pixels wide."""
    return render_plain(image, min(image_size, 2 * THUMBNAIL))


class ThumbnailedImages:
    """A source that keeps a thumbnail of every image as it is read."""

    def __init__(self, source: ImageSource, image_size: int) -> None:
        self.source, self.labels, self.classes = source, source.labels, source.classes
        side = min(image_size, THUMBNAIL)
        self.thumbnails = torch.zeros(len(source), 3, side, side, dtype=torch.uint8)

    def __len__(self) -> int:
        return len(self.source)

    def read(self, sample: int) -> Tensor:
        image = self.source.read(sample)
        self.thumbnails[sample] = render_plain(image, self.thumbnails.shape[-1])
        return image

    def fingerprint(self) -> str:
        return self.source.fingerprint()


class ViewsAsImages:
    """Two views of a source's images as images of their own: number 2 i + v is view v of image i.

    They are the first two of the method's views of the largest side, so that an encoder can compare them: of epoch 0,
    or of a method with one view those of epochs 0 and 1.
    """

    def __init__(self, source: ImageSource, recipe: Recipe) -> None:
        self.labels: Labels | None = None
        self.source, self.classes = source, source.classes
        drawn = [group for epoch in (0, 1) for group in draw_groups(recipe, epoch, np.arange(len(source)))]
        side = max(group.side for group in drawn)
        self._pair = [(group, view) for group in drawn if group.side == side for view in group.parameters][:2]
        self._last: tuple[int, Tensor] | None = None

    def __len__(self) -> int:
        return 2 * len(self.source)

    def read(self, sample: int) -> Tensor:
        number, view = divmod(sample, 2)
        if self._last is None or self._last[0] != number:
            self._last = number, self.source.read(number)
        group, drawn = self._pair[view]
        return RENDERERS["numba"].view(self._last[1], drawn, number, group.side, *group.forms)

    def fingerprint(self) -> str:
        return f"views of {self.source.fingerprint()}"


def _spread(length: int, most: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """At most ``most`` numbers below ``length``, evenly spread: every class of a sorted source has its share."""
    return np.unique(np.linspace(0, length - 1, min(most, length)).astype(np.int64))
