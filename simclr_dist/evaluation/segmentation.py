"""All weights trained with masks: DeepLabV3 on the pretrained encoder, and from scratch, by the same code.

Every process calls it and gets the result. Nothing is chosen on test images: the network of the last step counts.
"""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import asdict, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from simclr_dist.data.sources.base import Subset
from simclr_dist.errors import AgreedError
from simclr_dist.evaluation.confusion import Counts
from simclr_dist.evaluation.features import settle_statistics
from simclr_dist.evaluation.mask_pictures import contact_sheet, samples_shown
from simclr_dist.evaluation.protocol import SEGMENTATION, SegmentationProtocol
from simclr_dist.evaluation.scaled_crops import CropRule, crops_with_masks, ground_of
from simclr_dist.evaluation.segmentation_context import SegmentationContext
from simclr_dist.evaluation.segmentation_results import SegmentationResult, SegmentationRow
from simclr_dist.evaluation.subsets import Indices, first_with_masks, subset_digest
from simclr_dist.evaluation.supervised import pixel_cross_entropy, steps_of, total_steps, train_classifier
from simclr_dist.evaluation.whole_images import Sight, confusion_of, predicted
from simclr_dist.methods.build import build_encoder
from simclr_dist.models.segmentation import deeplab_v3
from simclr_dist.weights.digest import state_digest

STEPS = 2000
_STARTS = {"pretrained": "segmentation, pretrained", "scratch": "segmentation, from scratch"}
_SHORT = {"pretrained": "pretrained", "scratch": "from scratch"}


class Outcome(NamedTuple):
    """What one training came to."""

    confusion: Counts
    predictions: list[Tensor]
    """uint8 (height, width) each, of the test images that are shown."""


class Segmented(NamedTuple):
    """The numbers, and what they look like."""

    result: SegmentationResult
    sheet: Tensor
    """uint8 (3, height, width): some test images, their masks, and what each row of the result made of them."""


def segment(
    context: SegmentationContext,
    *,
    images: Sequence[int | None] = (None,),
    seeds: int = 1,
    starts: Sequence[str] = ("pretrained",),
    steps: int = STEPS,
    output_stride: int = 0,
    short_side: int = 0,
    batch_images: int | None = None,
    base_learning_rate: float | None = None,
    precision: str | None = None,
    seed: int = 0,
) -> Segmented:
    """Fine-tune with the masks of some images, and ask about whole test images.

    Args:
        context: the encoder, which is copied, and the images.
        images: how many masks are learned from, None for all: those of recipe.data.labelled_images.
        seeds: trainings; their numbers are ``seed``, ``seed`` + 1, ... The images stay the same.
        starts: ``pretrained``, ``scratch`` (the same network from initial weights), or both.
        steps: of a training; whole passes over the images, so it may be a few more.
        output_stride: 0: the recipe's; where it is the network's own, half of that.
        short_side: to which images are scaled, in training and test, pixels; 0: they stay as they are.
        batch_images: None: 16. No more than there are.
        base_learning_rate: for 256 images; None: 0.112, which is 0.007 for 16.
        precision: of the kernels while training, ``float32`` (None) or ``bfloat16``.
        seed: of the first training: initial weights, order of the images, scales, crops and flips.

    Raises:
        UserError: too many images are asked for or too few are there, the stride is none of the encoder's, the
            processes cannot share a batch, the training diverged, no test pixel counts.
        TrainingStoppedError: a signal stopped a training that is saved (``context.unfinished``).
    """
    chosen = {"batch_images": batch_images, "base_learning_rate": base_learning_rate, "precision": precision}
    numbers = sorted({context.images_with_masks(count) for count in images})
    stride = context.output_stride(output_stride)
    shown = samples_shown(len(context.test))
    rows: list[SegmentationRow] = []
    pictures: dict[str, list[Tensor]] = {}
    for number in numbers:
        indices, digest = first_with_masks(context.masked_train, number)
        protocol = _protocol(chosen, number, steps)
        by_start = {}
        for start in starts:
            rule = CropRule(
                side=context.data.image_size,
                short_side=short_side,
                scale_min=protocol.scale_min,
                scale_max=protocol.scale_max,
                ground=ground_of(context.pretrained.mean),
            )
            found = [
                _trained(context, start, indices, protocol, rule, stride, shown, seed + each) for each in range(seeds)
            ]
            pictures[f"{_SHORT[start]}, {number}"] = found[0].predictions
            by_start[start] = SegmentationRow.of(
                [each.confusion for each in found],
                name=_STARTS[start],
                images=number,
                subset_sha256=digest,
                details={
                    "steps": total_steps(protocol, steps_of(protocol, number, seed)),
                    "batch_images": min(protocol.batch_images, number),
                },
            )
        if by_start.keys() == _STARTS.keys():
            by_start["pretrained"].details["gain"] = by_start["pretrained"].mean - by_start["scratch"].mean
        rows += by_start.values()
    facts = asdict(SEGMENTATION.with_choices(**chosen)) | {"epochs": None, "steps": steps}
    facts |= {"images": numbers, "seeds": seeds, "starts": list(starts), "seed": seed}
    facts |= {"output_stride": stride, "short_side": short_side}
    result = SegmentationResult(
        method="segment",
        steps_done=context.steps_done,
        encoder_sha256=context.encoder_sha256,
        data=context.data_facts(len(context.class_names)),
        own_images=context.own_images,
        protocol=facts,
        class_names=context.class_names,
        rows=tuple(rows),
    )
    return Segmented(result, contact_sheet(context.masked_test, shown, pictures))


def _protocol(chosen: dict[str, Any], images: int, steps: int) -> SegmentationProtocol:
    """With as many epochs as make up the steps."""
    protocol = SEGMENTATION.with_choices(**chosen)
    if protocol.batch_images < 2:
        raise AgreedError("--batch: batch norm needs two images at least")
    epochs = -(-steps // (images // min(protocol.batch_images, images)))
    return replace(protocol, epochs=epochs)


def _trained(
    context: SegmentationContext,
    start: str,
    indices: Indices,
    protocol: SegmentationProtocol,
    rule: CropRule,
    stride: int,
    shown: list[int],
    seed: int,
) -> Outcome:
    how, chosen = context.how, Subset(context.masked_train, indices)
    if start == "pretrained":
        encoder = deepcopy(context.pretrained.encoder).requires_grad_()
    else:
        encoder = build_encoder(replace(context.recipe, seed=context.recipe.seed + seed))
    network = deeplab_v3(encoder, len(context.class_names), seed=seed, output_stride=stride)
    if start == "scratch":
        settle_statistics(network.to(how.device), chosen, rule.side, min(protocol.batch_images, len(chosen)))
    order = steps_of(protocol, len(chosen), seed)
    known = [*context.images_digests, subset_digest(indices), state_digest([network]), stride]
    saved = context.unfinished.training("segment", [*known, asdict(protocol), asdict(order), asdict(rule)])
    if (counts := saved.kept("confusion")) is not None:
        return Outcome(counts.numpy(), saved.kept("predictions"))
    sight = Sight(context.filled_up_to(stride), rule.short_side, rule.ground)
    train_classifier(
        network,
        protocol,
        order,
        crops_with_masks(chosen, rule, order, workers=how.workers, pin_memory=how.device.type == "cuda"),
        how.device,
        loss=pixel_cross_entropy,
        label=f"{_STARTS[start]}, {len(chosen)} images, seed {seed}",
        talks=how.talks,
        saved=saved,
    )
    counts = confusion_of(network, context.masked_test, sight, label="test images", talks=how.talks)
    if not counts.any():
        raise AgreedError(f"segment: no pixel of the test masks of '{context.data.source}' counts: all are ignored")
    predictions = [torch.from_numpy(predicted(network, context.test.read(each), sight)) for each in shown]
    saved.keep({"confusion": torch.from_numpy(counts), "predictions": predictions}, total_steps(protocol, order))
    return Outcome(counts, predictions)
