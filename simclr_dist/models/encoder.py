"""Encoders: normalised pixels, then a network to features."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from simclr_dist.errors import UserError
from simclr_dist.models.lab import lab_of, lightness_of

RGB, LIGHTNESS, HALVES = "rgb", "lightness", "halves"
INPUTS = (RGB, LIGHTNESS, HALVES)
"""What an encoder takes of an image. ``rgb``: its colours. ``lightness``: L of CIELAB alone, as a grey image.
``halves``: L in a network of half the width, a and b in another one (split-brain)."""


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
        output_stride: int = 0,
        takes: str = RGB,
    ) -> None:
        """A ResNet ``name`` with every channel count times ``width``, its map at ``output_stride`` (recipe.encoder).

        ``takes``: one of INPUTS.

        ``recompute``: which activations are not kept but computed again in the backward pass: none; those inside the
        residual ``blocks``; ``all``, the stem's too.

        Raises:
            ValueError: unknown name or stem, a width that leaves less than one channel, or a stride that the stem does
                not leave.
        """
        # Not above: torchvision takes as long to import as torch, and `config` needs a method's keys alone.
        from simclr_dist.models.resnet import DEPTHS, Halves, WideResNet, set_output_stride

        super().__init__()
        if name not in DEPTHS:
            raise ValueError(f"unknown encoder '{name}'; known: {', '.join(DEPTHS)}")
        block, depths = DEPTHS[name]

        def network(share: float = 1.0, channels: int = 3) -> WideResNet:
            made = WideResNet(block, depths, width * share, stem, zero_init_residual, norm_layer, channels)
            made.recompute = recompute
            set_output_stride(made, output_stride)
            return made

        self._take(Halves(network(0.5, 1), network(0.5, 2)) if takes == HALVES else network(), mean, std, takes)

    @classmethod
    def of(cls, backbone: nn.Module, mean: Sequence[float], std: Sequence[float], takes: str = RGB) -> "Encoder":
        """Around a network of one's own: normalised images (rows, 3, height, width) to features (rows, output_dim).

        Raises:
            ValueError: it has no whole number ``output_dim``, or would have to be halved.
        """
        if takes == HALVES:
            raise ValueError("two halves are made of a ResNet of this project alone")
        if not isinstance(getattr(backbone, "output_dim", None), int):
            raise ValueError(
                f"{type(backbone).__name__} has no output_dim, the number of its features (a whole number)"
            )
        encoder = cls.__new__(cls)
        nn.Module.__init__(encoder)
        encoder._take(backbone, mean, std, takes)
        return encoder

    def _take(self, backbone: Any, mean: Sequence[float], std: Sequence[float], takes: str) -> None:
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)
        self.takes = takes
        self.backbone = backbone
        self.output_dim: int = backbone.output_dim

    def forward(self, images: Tensor, *, pooled: bool = True) -> Tensor:
        """Features of shape (rows, output_dim) of uint8 images of shape (rows, 3, height, width); when not ``pooled``,
        the map that they are pooled from."""
        pixels = self.pixels_of(images)
        made: Tensor = self.backbone(pixels) if pooled else self.backbone.map(pixels)
        return made

    def pixels_of(self, images: Tensor) -> Tensor:
        """What the network takes of uint8 images, (rows, 3, height, width)."""
        return self.normalised(images.to(self.mean.dtype) / 255)

    def normalised(self, pixels: Tensor) -> Tensor:
        """What the network takes of RGB in 0..1, (rows, 3, height, width)."""
        if self.takes == HALVES:
            lightness, color = lab_of(pixels).split((1, 2), dim=1)
            return torch.cat((lightness - 50, color), dim=1) / 50
        if self.takes == LIGHTNESS:
            pixels = lightness_of(pixels)
        return (pixels - self.mean) / self.std

    def map(self, images: Tensor) -> Tensor:
        """The last stage's map, (rows, output_dim, h, w), of uint8 images of shape (rows, 3, height, width).

        Raises:
            UserError: the network is one from outside, and has no maps.
        """
        self.require_map()
        made: Tensor = self(images, pooled=False)  # by its own call: hooks and torch.compile see it
        return made

    def map_side(self, side: int) -> int:
        """Of the map of images with such a side, both in pixels.

        Raises:
            UserError: as :meth:`map`.
        """
        training = self.training
        self.eval()
        with torch.no_grad():
            maps = self.map(torch.zeros(1, 3, side, side, dtype=torch.uint8, device=self.mean.device))
        self.train(training)
        return int(maps.shape[-1])

    def require_map(self) -> None:
        """Refuse a network without maps.

        Raises:
            UserError: it is one from outside, and has none.
        """
        if not hasattr(self.backbone, "map"):
            raise UserError(
                f"recipe.encoder.name: {type(self.backbone).__name__} has no map(pixels), and maps are needed; write "
                "map() and pool() (docs/methods.md), or take an encoder of this project"
            )

    def maps_only(self) -> None:
        """Freeze the parameters that :meth:`pool` alone has, for those who train on :meth:`map` and never pool: their
        loss would not reach them, and DDP would wait for their gradients.

        Here nothing: a ResNet pools without parameters. A network from outside that does not is refused by the check
        of the rules.
        """

    def pool(self, maps: Tensor) -> Tensor:
        """Features (rows, output_dim) of :meth:`map`'s (rows, output_dim, h, w): those of the encoder, to the bit."""
        features: Tensor = self.backbone.pool(maps)
        return features
