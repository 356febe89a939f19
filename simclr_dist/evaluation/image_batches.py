"""Batches of a classifier: images cropped and flipped, or features as they are, with their labels."""

from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import replace

import torch
from torch import Tensor

from simclr_dist.config import Recipe
from simclr_dist.data.loading.batches import ViewBatches
from simclr_dist.data.loading.order import SampleOrder
from simclr_dist.data.loading.workers import load_steps
from simclr_dist.data.sources.base import ImageSource
from simclr_dist.data.views.groups import first_group_alone
from simclr_dist.errors import UserError
from simclr_dist.evaluation.feature_blocks import FeatureMatrix
from simclr_dist.evaluation.subsets import Indices, Labels, labels_of
from simclr_dist.evaluation.supervised import Batches, own_part


def cropped_and_flipped(
    source: ImageSource, recipe: Recipe, order: SampleOrder, *, workers: int = 0, pin_memory: bool = False
) -> Batches:
    """Random crops and flips as the recipe draws them, without its colours and blur, from the counter-based generator.

    They are those of the recipe's first group of views. The batches hold one view an image; it depends on (order.seed,
    epoch, number in ``source``) alone.
    """
    crop = replace(
        first_group_alone(recipe, 1),
        color_probability=0.0, grayscale_probability=0.0, blur_probability=0.0, solarize_probability=0.0,
    )  # fmt: skip
    drawn = replace(recipe, views={"crop": crop}, seed=order.seed)
    labels = torch.from_numpy(labels_of(source))

    def batches(steps: Sequence[int]) -> Generator[tuple[Tensor, Tensor], None, None]:
        part, parts = own_part(order)
        shares = ViewBatches(source, drawn, order, part, parts)
        with closing(load_steps(shares, steps, workers=workers, pin_memory=pin_memory)) as loaded:
            for step, batch in zip(steps, loaded, strict=True):
                if batch.broken:
                    raise UserError(f"evaluation needs every image, and one is broken: {batch.broken[0][1]}")
                yield batch.views["crop"][:, 0], labels[order.samples(step, part, parts)]

    return batches


def features_as_they_are(
    features: FeatureMatrix, labels: Labels, order: SampleOrder, among: Indices | None = None
) -> Batches:
    """FeatureMatrix of features that all processes have before them; ``order`` is over the rows ``among``, or all."""

    def batches(steps: Sequence[int]) -> Generator[tuple[Tensor, Tensor], None, None]:
        for step in steps:
            rows = order.samples(step, *own_part(order))
            rows = rows if among is None else among[rows]
            yield torch.from_numpy(features[rows]), torch.from_numpy(labels[rows])

    return batches
