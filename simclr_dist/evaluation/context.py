"""An encoder and the labelled images that it is evaluated on."""

from collections.abc import Collection, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from torch import nn

from simclr_dist.config.recipe import Data
from simclr_dist.config.shards import Shards
from simclr_dist.data.loading.order import SampleOrder
from simclr_dist.data.sources.named import open_source
from simclr_dist.data.sources.summary import summary
from simclr_dist.data.sources.whole import without
from simclr_dist.errors import AgreedError
from simclr_dist.evaluation.feature_blocks import FeatureMatrix
from simclr_dist.evaluation.features import Extraction, feature_matrix, features_digest, reading_workers
from simclr_dist.evaluation.labelled_images import are_unequal, look_at_classes
from simclr_dist.evaluation.protocol import Protocol
from simclr_dist.evaluation.results import Result, ResultRow
from simclr_dist.evaluation.saved_training import SavedTraining, Unfinished
from simclr_dist.evaluation.subsets import Indices, subset_digest
from simclr_dist.terminal import say
from simclr_dist.weights.digest import state_digest
from simclr_dist.weights.loaded import LoadedEncoder


class OpenedImages:
    """An encoder, and the training and test images that it is evaluated on."""

    SPLITS: ClassVar[tuple[str, ...]] = ("train", "test")
    """What is opened of the source; of one alone, ``test`` is ``train``."""

    def __init__(
        self,
        pretrained: LoadedEncoder,
        shards: Shards,
        data: Data | None = None,
        how: Extraction | None = None,
        unfinished: Unfinished | None = None,
        broken: Collection[str] = (),
        own_images: bool | None = None,
    ) -> None:
        """Open the images, by way of ``shards``: those of the encoder's own recipe unless ``data`` names others.

        The normalisation of the pixels stays the encoder's. ``unfinished``: where trainings are saved (None: nowhere).
        ``broken``: files that pretraining found to be broken; they are left out, and said. ``own_images``: whether
        ``data`` are those of the encoder's own recipe, perhaps in another place (None: when they are equal).

        Raises:
            UserError: the images cannot be read, or are not what the evaluation needs.
        """
        self.pretrained, self.how, self.unfinished = pretrained, how or Extraction(), unfinished or Unfinished()
        self.recipe = pretrained.recipe
        """Of the encoder; its data are the default to evaluate on."""
        self.steps_done = pretrained.steps_done or 0
        """Of pretraining."""
        self.data = data or self.recipe.data
        self.own_images = self.data == self.recipe.data if own_images is None else own_images
        splits = [open_source(self.data, shards, split) for split in self.SPLITS]
        kept = [without(split, broken) for split in splits]
        self.train, self.test = kept[0], kept[-1]
        self.left_out_broken = sum(map(len, splits)) - sum(map(len, kept))
        if self.left_out_broken:
            self._say(f"left out, as pretraining found them to be broken: {self.left_out_broken} images")
        self._examine()
        self.encoder_sha256 = pretrained.sha256
        if notice := pretrained.take_images(self.data.image_size):
            self._say(notice)

    def _examine(self) -> None:
        """What a kind of evaluation asks of the images that were opened, and keeps of them."""

    def summaries(self) -> tuple[str, ...]:
        """What was found of the training and of the test images, and what was left out."""
        return (
            f"training images: {summary(self.train, self.data.source)}",
            f"test images: {summary(self.test, self.data.source)}",
        )

    def choose_workers(self, requested: int, cores: int) -> None:
        """Set the processes that read images: as requested, or (-1) by the number of images."""
        images = len(self.train) + len(self.test)
        self.how = replace(self.how, workers=reading_workers(requested, cores, images))

    def data_facts(self, classes: int) -> dict[str, Any]:
        """What a result says of the images."""
        facts = {
            "source": self.data.source,
            "image_size": self.data.image_size,
            "classes": classes,
            "train_images": len(self.train),
            "train_fingerprint": self.train.fingerprint(),
            "test_images": len(self.test),
            "test_fingerprint": self.test.fingerprint(),
        }
        facts |= {"left_out_broken_images": self.left_out_broken} if self.left_out_broken else {}
        return facts | self.pixel_facts()

    def pixel_facts(self) -> dict[str, Any]:
        """What neither the images' fingerprint nor the weights' SHA-256 tells, where it is not as usual: how pictures
        are read, and of a foreign file the normalisation and the network that were given or taken for granted."""
        usual, pretrained = Data(), self.pretrained
        facts = {
            key: value
            for key in ("transparent_ground", "apply_orientation")
            if (value := getattr(self.data, key)) != getattr(usual, key)
        }
        if not pretrained.recipe_known:
            facts |= {"mean": pretrained.mean, "std": pretrained.std, "network": pretrained.network}
        return facts

    def _say(self, notice: str) -> None:
        if self.how.talks:
            say(notice, err=True)


class EvaluationContext(OpenedImages):
    """What every method is given; features are computed once, when first asked for, by all processes together."""

    def _examine(self) -> None:
        """Leave out what has no label.

        Raises:
            UserError: the images have no labels, or one class only.
        """
        found = look_at_classes(self.train, self.test)
        self.train, self.train_labels = found.train, found.train_labels
        self.test, self.test_labels, self.left_out = found.test, found.test_labels, found.left_out
        self.class_names, self.classes = found.classes, len(found.classes)
        for notice in found.notices:
            self._say(notice)

    @cached_property
    def train_features(self) -> FeatureMatrix:
        return feature_matrix(self.pretrained.encoder, self.train, self.data.image_size, self.how)

    @cached_property
    def test_features(self) -> FeatureMatrix:
        return feature_matrix(self.pretrained.encoder, self.test, self.data.image_size, self.how)

    def numbers_of_labels(self, asked: Sequence[int] | None, usual: Sequence[int]) -> list[int]:
        """Labels a class: as asked; else the usual numbers as far as half of the classes have so many images.

        A class that has fewer gives all of them: one odd class must not end the curve of the others. Both are said.

        Raises:
            UserError: a class has fewer than asked.
        """
        sizes = np.bincount(self.train_labels, minlength=self.classes)
        least, name = int(sizes.min()), self.class_names[int(sizes.argmin())]
        there = f"class '{name}' has {least} training image{'s' * (least != 1)}"
        most = int(np.sort(sizes)[self.classes // 2])
        if asked:
            if max(asked) > least:
                raise AgreedError(f"--labels: {max(asked)} labels a class, but {there}; ask for fewer")
            return list(asked)
        fitting = [count for count in usual if count <= most] or [most]
        if len(fitting) < len(usual) or least < fitting[-1]:
            short = f"; where a class has fewer, all of them: {there}" if least < fitting[-1] else f", as {there}"
            self._say(f"labels a class: {', '.join(map(str, fitting))}{short}")
        return fitting

    def saved_training(
        self, method: str, classifier: nn.Module, protocol: Protocol, order: SampleOrder, indices: Indices
    ) -> SavedTraining:
        """Where the training of ``classifier``, as it stands here, on the images ``indices`` is saved.

        It is known by all that determines it and its accuracies: the encoder, the training and test images and their
        labels, which of them, the classifier's weights before the first step, the protocol, the seed, the crops, and
        what moves last bits.
        """
        encoder, side = self.pretrained.encoder, self.data.image_size
        facts = [
            self.encoder_sha256,
            [features_digest(encoder, images, side, self.how) for images in (self.train, self.test)],
            [subset_digest(numbers) for numbers in (self.train_labels, self.test_labels, indices)],
            [state_digest([classifier]), asdict(protocol), asdict(order)],
            asdict(self.recipe)["views"],
            "with balanced accuracy",  # a save from before that has none is not taken
        ]
        return self.unfinished.training(method, facts)

    def result(self, method: str, protocol: dict[str, Any], rows: list[ResultRow]) -> Result:
        """The rows with all that they depend on."""
        data = self.data_facts(self.classes)
        if self.left_out:
            data["left_out_test_images"] = self.left_out
        return Result(
            method=method,
            steps_done=self.steps_done,
            encoder_sha256=self.encoder_sha256,
            data=data,
            own_images=self.own_images,
            protocol=protocol,
            unequal_classes=are_unequal(self.test_labels),
            rows=tuple(rows),
        )
