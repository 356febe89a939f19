"""What an encoder makes of images in evaluation mode."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from simclr_dist.data.loading.plain import PlainBatch


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; each part's own mode again afterwards."""
    before = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in before:
            part.training = training


def features_of(encoder: nn.Module, batch: PlainBatch, device: torch.device) -> Tensor:
    """float32 (rows, d) on the device; NaN where an image could not be read."""
    features: Tensor = encoder(batch.images.to(device, non_blocking=True)).float()
    if batch.broken:  # an empty list would go to the device, and be waited for
        features[batch.broken] = math.nan
    return features
