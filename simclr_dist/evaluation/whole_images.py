"""A segmentation network asked about whole images, one at a time, each at its own size or at a stated one."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as tv

from simclr_dist.data.sources.base import BrokenImageError, MaskedSource
from simclr_dist.distributed.agreement import all_or_none
from simclr_dist.distributed.collectives import gather_stacked, process_count, process_rank
from simclr_dist.errors import UserError
from simclr_dist.evaluation.confusion import Counts, pixel_confusion
from simclr_dist.evaluation.scaled_crops import Ground
from simclr_dist.models.features import evaluating
from simclr_dist.progress_bar import showing_progress


class Sight(NamedTuple):
    """How a network sees whole images."""

    stride: int = 32
    """Of the network; an image is filled up at its right and below to a multiple of it, so that every pixel of the map
    stands for as many of the image as in training."""
    short_side: int = 0
    """To which the shorter side is scaled, pixels; 0: the image stays as it is."""
    ground: Ground = (124, 116, 104)
    """The colour that it is filled up with."""


@torch.inference_mode()
def predicted(network: nn.Module, image: Tensor, sight: Sight) -> NDArray[np.uint8]:
    """The class of each pixel of an image, shape (height, width).

    The logits are resized to the image's own size (bilinear), whatever size the network saw.

    Args:
        network: uint8 (1, 3, height, width) to logits (1, classes, height, width), in evaluation mode.
        image: uint8 (3, height, width).
        sight: how.
    """
    size = height, width = image.shape[1:]
    if sight.short_side:
        height, width = (max(1, round(each * sight.short_side / min(size))) for each in size)
        image = tv.resize(image, [height, width], antialias=True)
    rows, columns = (-(-each // sight.stride) * sight.stride for each in (height, width))
    filled = torch.tensor(sight.ground, dtype=torch.uint8)[:, None, None].repeat(1, rows, columns)
    filled[:, :height, :width] = image
    logits = network(filled[None].to(next(network.parameters()).device))[..., :height, :width].float()
    if (height, width) != tuple(size):
        logits = F.interpolate(logits, size=tuple(size), mode="bilinear", align_corners=False)
    classes: NDArray[np.uint8] = logits[0].argmax(0).to(torch.uint8).cpu().numpy()
    return classes


def confusion_of(
    network: nn.Module,
    source: MaskedSource,
    sight: Sight,
    *,
    label: str = "",
    talks: bool = False,
) -> Counts:
    """What the pixels of all images are taken for; each process asks about its share, and every one gets the sums.

    Raises:
        UserError: an image or a mask cannot be read.
    """
    classes = len(source.mask_classes)
    counts = np.zeros((classes, classes), dtype=np.int64)
    own = range(process_rank(), len(source), process_count())
    with all_or_none(), evaluating(network), showing_progress(len(source), label=label, active=talks) as advance:
        for sample in own:
            try:
                image, mask = source.read_with_mask(sample)
            except BrokenImageError as error:
                raise UserError(f"evaluation needs every image, and one is broken: {error}") from error
            found = predicted(network, image, sight)
            counts += pixel_confusion(mask.numpy(), found, classes)
            advance(min(process_count(), len(source) - sample))
    device = next(network.parameters()).device
    found_by_all = gather_stacked(torch.from_numpy(counts).to(device), label="confusions of the test images")
    summed: Counts = found_by_all.sum(0).cpu().numpy()
    return summed
