"""Inpainting: what the middle of an image is, told from what is around it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from simclr_dist.config import Recipe
from simclr_dist.config.fields import MOST_CHANNELS, number
from simclr_dist.distributed.global_batch import global_batch
from simclr_dist.methods.base import About, Batch, Method, MethodKeys, Metric, Tensors, ViewGroup
from simclr_dist.methods.parts import Parts
from simclr_dist.methods.published_views import one_plain

_FILL = (117, 104, 123)
"""RGB of the hole in the input: ImageNet's mean, as the published code has it."""
_SMALLEST = 4
"""Side of the first map of a decoder, at least."""


class Inpainting(Method):
    """Pathak et al. 2016 (arXiv 1604.07379), the context encoder, by its reconstruction loss.

    The middle half of each side is predicted; a band of it is left in the input (``overlap``), the rest is filled with
    the mean colour. Left out: the adversarial part, whose second network has a loss and an optimizer of its own.
    """

    recordable = True
    ABOUT: ClassVar[About | None] = About(
        title="Context encoder", paper="Pathak et al. 2016", arxiv="1604.07379",
        equation=(
            "L = mean over images and pixels p of the middle of w_p |x_p - D(f(masked x))_p|^2\n"
            "w_p = overlap_weight in the band that the input shows, else 1"
        ),
    )  # fmt: skip
    PICTURES: ClassVar[str] = "the input, with its hole, and the answer, the view"

    @dataclass(kw_only=True)
    class Config(MethodKeys):
        """The keys of inpainting."""

        overlap: float = number(0.0625, low=0.0, high=0.45)
        """Share of the middle's side, at each of its edges, that the input shows too, so that edges meet (the paper:
        4 pixels of 64)."""
        overlap_weight: float = number(10.0, above=0.0)
        """Of the error in that band."""
        hidden_dim: int = number(512, low=8, high=MOST_CHANNELS)
        """Channels of the decoder's first map; each following map has half of them, and at least 8."""

    METRICS: ClassVar[Mapping[str, Metric]] = {
        "hole_psnr": Metric(
            title="PSNR in the hole", unit="dB", role="headline", band=True,
            text="20 log10 of the largest pixel over the root mean square error of what the input does not show",
            below="the learning rate", above="whether the images have anything in their middle",
        ),
        "hole_error": Metric(
            title="error in the hole", unit="%", from_zero=True, text="mean absolute error, of the largest pixel"
        ),
    }  # fmt: skip

    def __init__(self, config: Config, make: Parts, images: int) -> None:
        super().__init__()
        self.config = config
        self.encoder = make.encoder()
        self.side = make.recipe.views["global"].side(make.recipe.data.image_size)
        self.band = band_of(self.side, config)
        self.decoder = decoder(self.encoder.output_dim, config.hidden_dim, hole_of(self.side), make)

    @classmethod
    def views(cls, config: MethodKeys) -> dict[str, ViewGroup]:
        """A crop in its own colours."""
        return one_plain(crop_area_min=0.08)

    @classmethod
    def small(cls, config: Config, images: int) -> Config:
        """With a narrow decoder, and a band that a small image has room for."""
        return replace(config, hidden_dim=16, overlap=0.25)

    @classmethod
    def pictures(cls, recipe: Recipe, batch: Batch) -> Tensor:
        """Input and view."""
        views = batch.views["global"]
        return torch.cat((masked(views, band_of(views.shape[-1], recipe.method)), views), dim=1)

    def prepare(self, batch: Batch) -> Batch:
        """With ``masked`` beside the views."""
        views = batch.views["global"]
        return replace(batch, views={"global": views, "masked": masked(views, self.band)})

    def targets(self, batch: Batch) -> Tensors:
        """``middle`` (images, 3, h, h), pixels in -1..1."""
        hole = middle(self.side)
        pixels = batch.views["global"][:, 0, :, hole, hole]
        return {"middle": pixels.to(self.encoder.mean.dtype) / 127.5 - 1}

    def embed(self, batch: Batch) -> Tensors:
        """``middle`` (images, 3, h, h), predicted; ``features`` (images, d), without a gradient."""
        features = self.encoder(batch.views["masked"][:, 0])
        return {"features": features.detach(), "middle": self.decoder(features)}

    def loss(self, embeddings: Tensors, targets: Tensors, batch: Batch) -> Tensors:
        """Equation 1, whose weights the published code puts into the gradient alone."""
        difference = embeddings["middle"] - targets["middle"]
        weights = band_weights(difference.shape[-1], self.band, self.config.overlap_weight).to(difference)
        losses = (weights * difference.square()).flatten(1).mean(1)
        with torch.no_grad():
            end = difference.shape[-1] - self.band
            hidden = difference[..., self.band : end, self.band : end].flatten(1).double() / 2
            errors = torch.stack((hidden.square().mean(1), hidden.abs().mean(1)), dim=1)
            square, absolute = global_batch(errors, "errors in the hole").mean(0)
        return {
            "loss": global_batch(losses, "losses").mean(), "hole_psnr": -10 * square.clamp_min(1e-12).log10(),
            "hole_error": absolute,
        }  # fmt: skip

    def reference_loss(self, embeddings: Tensors, targets: Tensors, batch: Batch) -> Tensor:
        """The whole middle at the band's weight, and the hole at what is left to 1."""
        found, answer, weight = embeddings["middle"], targets["middle"], self.config.overlap_weight
        hidden = slice(self.band, answer.shape[-1] - self.band)
        whole = weight * (found - answer).square().sum()
        hole = (found[..., hidden, hidden] - answer[..., hidden, hidden]).square().sum()
        return (whole + (1 - weight) * hole) / answer.numel()


def hole_of(side: int) -> int:
    """Side of the middle that is predicted, of images with such a side."""
    return side // 2


def band_of(side: int, config: Any) -> int:
    """Width in pixels of the band of it that the input shows."""
    return int(config.overlap * hole_of(side))


def middle(side: int, band: int = 0) -> slice:
    """The middle's rows, or columns, without a band of so many pixels."""
    first = (side - hole_of(side)) // 2
    return slice(first + band, first + hole_of(side) - band)


def masked(views: Tensor, band: int) -> Tensor:
    """Views (images, count, 3, s, s), uint8, whose middle is of the mean colour up to its band."""
    hole = middle(views.shape[-1], band)
    filled = views.clone()
    filled[..., hole, hole] = torch.tensor(_FILL, dtype=torch.uint8, device=views.device)[:, None, None]
    return filled


def band_weights(hole: int, band: int, weight: float) -> Tensor:
    """Of the errors of the middle's pixels, float64 (hole, hole): ``weight`` in the band at its edges, else 1."""
    weights = torch.full((hole, hole), weight, dtype=torch.float64)
    weights[band : hole - band, band : hole - band] = 1
    return weights


class _Cropped(nn.Module):
    """Of maps (rows, d, h, w) the middle, ``side`` places in each direction."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def forward(self, maps: Tensor) -> Tensor:
        first = (maps.shape[-1] - self.side) // 2
        inside = slice(first, first + self.side)
        return maps[..., inside, inside]


def decoder(features: int, channels: int, hole: int, make: Parts) -> nn.Sequential:
    """Features (rows, features) to pixels in -1..1, (rows, 3, hole, hole): a linear layer to a map of four to eight
    places a side, doubled by transposed convolutions; of a last map that is larger than the hole, the middle."""
    doublings = max(0, hole.bit_length() - _SMALLEST.bit_length())
    side = -(-hole // 2**doublings)
    layers = nn.Sequential(
        nn.Linear(features, channels * side * side, bias=False),
        nn.Unflatten(1, (channels, side, side)),
        make.norm(channels),
        nn.ReLU(inplace=True),
    )
    for _ in range(doublings):
        narrower = max(channels // 2, 8)
        layers.append(nn.ConvTranspose2d(channels, narrower, kernel_size=4, stride=2, padding=1, bias=False))
        layers.append(make.norm(narrower))
        layers.append(nn.ReLU(inplace=True))
        channels = narrower
    if side * 2**doublings > hole:
        layers.append(_Cropped(hole))
    layers.append(nn.Conv2d(channels, 3, kernel_size=3, padding=1))
    return layers.append(nn.Tanh())
