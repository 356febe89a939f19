"""Frozen features of a set of images."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from simclr_dist.data.render import render_plain
from simclr_dist.data.sources import BrokenImageError, ImageSource
from simclr_dist.errors import UserError


@torch.inference_mode()
def extract_features(
    encoder: nn.Module, source: ImageSource, image_size: int, *, batch_images: int = 64, device: str = "cpu"
) -> NDArray[np.float32]:
    """Features of all images, shape (images, d), without augmentation; the encoder is used in evaluation mode.

    Raises:
        UserError: an image cannot be read (evaluation leaves none out).
    """
    encoder = encoder.to(device).eval()
    features = []
    for start in range(0, len(source), batch_images):
        try:
            images = [
                render_plain(source.read(i), image_size) for i in range(start, min(start + batch_images, len(source)))
            ]
        except BrokenImageError as error:
            raise UserError(f"evaluation needs every image, and one is broken: {error}") from error
        features.append(encoder(torch.stack(images).to(device)).float().cpu())
    return torch.cat(features).numpy()


@torch.inference_mode()
def settle_statistics(encoder: nn.Module, source: ImageSource, image_size: int, images: int = 1024) -> None:
    """Set the running statistics of batch norm to those of some images: an untrained encoder has none of its own.

    Without them its features would be worse than its weights are, and the comparison unfair.
    """
    chosen = np.linspace(0, len(source) - 1, min(images, len(source))).astype(np.int64)
    norms = [module for module in encoder.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    before = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    encoder.train()(torch.stack([render_plain(source.read(int(sample)), image_size) for sample in chosen]))
    encoder.eval()
    for norm, momentum in zip(norms, before, strict=True):
        norm.momentum = momentum


def raw_pixels(source: ImageSource, image_size: int) -> NDArray[np.float32]:
    """The pixels themselves as features, shape (images, 3 * side * side), in 0..1."""
    return extract_features(nn.Flatten(), source, image_size) / np.float32(255)
