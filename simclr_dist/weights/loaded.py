"""An encoder with what is known of it: the one record of all that evaluates, exports, shows or uses encoders."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from simclr_dist.config import Recipe
from simclr_dist.config.recipe import Data
from simclr_dist.config.recipe import Encoder as EncoderKeys
from simclr_dist.data.loading.plain import GivenImages, PlainBatches
from simclr_dist.data.sources.pixels import PixelRule
from simclr_dist.models.encoder import Encoder
from simclr_dist.models.features import evaluating, features_of
from simclr_dist.models.image_sides import take_images
from simclr_dist.weights.architecture import Architecture
from simclr_dist.weights.digest import state_digest


@dataclass(frozen=True, kw_only=True)
class LoadedEncoder:
    """An encoder and what is known of it."""

    encoder: Encoder
    """In evaluation mode, float32, on the CPU: uint8 (images, 3, height, width) to features (images, output_dim).
    ``encoder.mean`` and ``encoder.std`` normalise the pixels in 0..1."""
    recipe: Recipe
    """Of its training; of a file that says nothing of that, the encoder and its images alone."""
    source: str
    """Where it comes from, for people."""
    architecture: Architecture | None = None
    """The ResNet that it is; None: a model of timm, or an encoder from outside this project."""
    projection: nn.Module | None = None
    """The projection head, where the weights have one: features to embeddings (images, d)."""
    steps_done: int | None = None
    """Of its training, where that is known."""
    recipe_known: bool = True
    """Whether ``recipe`` is that of the training."""
    not_the_newest: str = ""
    """Why a newer checkpoint of the run was passed over; "" when none was."""
    assumed: tuple[str, ...] = ()
    """What a foreign file does not say and was taken for granted."""

    @property
    def image_size(self) -> int:
        """Side in pixels that it was trained for."""
        return self.recipe.data.image_size

    @property
    def mean(self) -> list[float]:
        """Of the three channels, pixels in 0..1."""
        return [float(number) for number in self.encoder.mean.flatten()]

    @property
    def std(self) -> list[float]:
        """Of the three channels, pixels in 0..1."""
        return [float(number) for number in self.encoder.std.flatten()]

    @cached_property
    def sha256(self) -> str:
        """64 hex digits of the weights and running statistics, the projection head's included where there is one."""
        return state_digest([self.encoder, *([self.projection] if self.projection is not None else [])])

    @property
    def network(self) -> dict[str, Any]:
        """What ``sha256`` leaves open of the network, as plain data: paddings, strides, timm's options."""
        if self.architecture is not None:
            return asdict(self.architecture)
        keys = {key: getattr(self.recipe.encoder, key) for key in ("name", "options", "width", "stem", "output_stride")}
        return keys | {"takes": self.encoder.takes}

    def take_images(self, side: int) -> str:
        """Let the encoder take images of such a side; what was changed for that, for people, or "".

        ``sha256`` stays that of the weights as they came.

        Raises:
            UserError: it cannot take them.
        """
        assert self.sha256
        if not take_images(self.encoder, side):
            return ""
        return f"images of {side} px, {self.image_size} in training: the position embeddings are resampled"

    def features(self, images: Sequence[Any], *, device: torch.device | str = "cpu", batch_images: int = 64) -> Tensor:
        """Features of some images, float32 (images, output_dim) on the CPU, as ``simclr-dist evaluate`` computes them.

        Of each image the central square is taken and scaled to ``image_size``. On the CPU equal to the bit to what
        ``evaluate`` extracts with the same ``batch_images``.

        Args:
            images: paths, PIL images, uint8 arrays (height, width, 3) or uint8 tensors (3, height, width), mixed or
                not; all RGB.
            device: where to compute; the encoder stays there.
            batch_images: of one forward pass.

        Raises:
            UserError: an image cannot be read, or is of another form.
        """
        if not len(images):
            return torch.empty(0, self.encoder.output_dim)
        device = torch.device(device)
        batches = PlainBatches(GivenImages(images, PixelRule.of(self.recipe.data)), self.image_size, batch_images)
        with evaluating(self.encoder.to(device)), torch.inference_mode():
            found = [features_of(self.encoder, batches[number], device).cpu() for number in range(len(batches))]
        return torch.cat(found)[: len(images)].clone()


def recipe_of_encoder(
    architecture: Architecture, mean: Sequence[float], std: Sequence[float], image_size: int
) -> Recipe:
    """A recipe that knows a ResNet and its images alone."""
    return Recipe(
        data=Data(image_size=image_size, mean=list(mean), std=list(std)),
        encoder=EncoderKeys(
            name=architecture.name,
            width=architecture.width,
            stem=architecture.stem,
            output_stride=architecture.output_stride,
        ),
    )
