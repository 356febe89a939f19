"""Encoders: normalised pixels, then a network to features."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn


class Encoder(nn.Module):
    """Images to features: normalisation of the pixels, then a ResNet without its classifier.

    ``backbone`` has torchvision's parameter names, so its weights go in and out of torchvision as they are.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        name: str,
        *,
        width: float = 1.0,
        stem: str = "imagenet",
        zero_init_residual: bool = True,
        mean: Sequence[float] = (0.485, 0.456, 0.406),
        std: Sequence[float] = (0.229, 0.224, 0.225),
        norm_layer: Callable[..., nn.Module] = nn.BatchNorm2d,
        recompute: str = "none",
    ) -> None:
        """A ResNet ``name`` with every channel count times ``width``.

        ``recompute``: which activations are not kept but computed again in the backward pass: none; those inside the
        residual ``blocks``; ``all``, the stem's too.

        Raises:
            ValueError: unknown name or stem, or a width that leaves less than one channel.
        """
        # Not above: torchvision takes as long to import as torch, and `config` needs a method's keys alone.
        from simclr_dist.models.resnet import DEPTHS, WideResNet

        super().__init__()
        if name not in DEPTHS:
            raise ValueError(f"unknown encoder '{name}'; known: {', '.join(DEPTHS)}")
        block, depths = DEPTHS[name]
        backbone = WideResNet(block, depths, width, stem, zero_init_residual, norm_layer)
        backbone.recompute = recompute
        self._take(backbone, mean, std)

    @classmethod
    def of(cls, backbone: nn.Module, mean: Sequence[float], std: Sequence[float]) -> "Encoder":
        """Around a network of one's own: normalised images (rows, 3, height, width) to features (rows, output_dim).

        Raises:
            ValueError: it has no whole number ``output_dim``.
        """
        if not isinstance(getattr(backbone, "output_dim", None), int):
            raise ValueError(
                f"{type(backbone).__name__} has no output_dim, the number of its features (a whole number)"
            )
        encoder = cls.__new__(cls)
        nn.Module.__init__(encoder)
        encoder._take(backbone, mean, std)
        return encoder

    def _take(self, backbone: Any, mean: Sequence[float], std: Sequence[float]) -> None:
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)
        self.backbone = backbone
        self.output_dim: int = backbone.output_dim

    def forward(self, images: Tensor) -> Tensor:
        """Features of shape (rows, output_dim) of uint8 images of shape (rows, 3, height, width)."""
        pixels = images.to(self.mean.dtype) / 255
        features: Tensor = self.backbone((pixels - self.mean) / self.std)
        return features
