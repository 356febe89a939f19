"""Pixel contrast: the labels of pixels say which belong together, within an image, across images, in a batch."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import isqrt
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from simclr_dist.config import Recipe
from simclr_dist.config.fields import MOST_CHANNELS, number, one_of
from simclr_dist.distributed.global_batch import global_batch
from simclr_dist.losses.pixel_contrast import pixel_contrast
from simclr_dist.losses.pixel_cosines import PIXEL_METRICS, pixel_cosines
from simclr_dist.losses.pixels import IGNORED
from simclr_dist.losses.plain_pixels import plain_pixel_contrast
from simclr_dist.losses.spread import EMBEDDING_STD, spread_of_means
from simclr_dist.methods.base import About, Batch, Method, MethodKeys, Metric, Tensors, ViewGroup
from simclr_dist.methods.parts import Parts
from simclr_dist.models.resizing import resized_map, resized_mask

_VIEWS = ("image", "copy")


class PixelContrast(Method):
    """Zhao et al. 2020 (arXiv 2012.06985): label contrast between pixels, before fine-tuning for segmentation.

    An image and its distorted copy, of the same places, go through the encoder in one pass; the map is brought to
    ``map_size`` and each of its pixels through three 1x1 convolutions to a vector of unit length.
    """

    recordable = True
    ABOUT: ClassVar[About | None] = About(
        title="Pixel contrast", paper="Zhao et al. 2020", arxiv="2012.06985",
        equation=(
            "L = mean over images I, pixels i of [log sum over A(i) of exp(s_ij) - 1/|P(i)| sum over P(i) of s_ip]\n"
            "A(i): the pixels of I's distorted copy and, cross-image, those of i's class in another image's copy\n"
            "P(i): those of A(i) that are of i's class;   s_ij = z_i.z_j / T"
        ),
    )  # fmt: skip

    needs: ClassVar[frozenset[str]] = frozenset({"masks"})

    @dataclass(kw_only=True)
    class Config(MethodKeys):
        """The keys of pixel contrast."""

        loss: str = one_of("cross", ("within", "cross", "batch"))
        """Which pixels meet: those of an image and its copy (`within`); of another image too (`cross`), which is drawn
        from (seed, epoch, sample id) among the labelled ones of the global batch (the only labelled one meets none); of
        the whole global `batch`."""
        form: str = one_of("paper", ("paper", "release"))
        """`paper`: the equation above. `release`: what its authors published, where a positive stands against negatives
        alone and anchors are of both images (docs/methods.md)."""
        temperature: float = number(0.07, low=0.002)
        """Divides the similarities."""
        map_size: int = number(65, low=0, high=1024)
        """Side of the map whose pixels meet: features are resized to it bilinearly, masks by the nearest pixel, corners
        on corners. 0: the encoder's own map."""
        hidden_dim: int = number(256, low=1, high=MOST_CHANNELS)
        """Channels of the head's first two convolutions."""
        output_dim: int = number(256, low=2, high=MOST_CHANNELS)
        """Size of a pixel's embedding."""
        head_batch_norm: bool = False
        """Batch norm after the first two convolutions, as the release has it; the paper has none."""
        unlabelled: str = one_of("left_out", ("left_out", "pixels"))
        """Images without a mask: `left_out` of the loss (batch norm sees them), or each of their `pixels` against the
        copy's, its own place the positive. `pixels` is of form paper, loss within or cross."""

    METRICS: ClassVar[Mapping[str, Metric]] = {**PIXEL_METRICS, "embedding_std": EMBEDDING_STD}

    def __init__(self, config: Config, make: Parts, images: int) -> None:
        super().__init__()
        self.config = config
        self.encoder = make.encoder()
        self.encoder.maps_only()
        sizes = (self.encoder.output_dim, config.hidden_dim, config.hidden_dim, config.output_dim)
        self.projection = make.mlp(sizes, bias=True, norm=config.head_batch_norm)

    @classmethod
    def views(cls, config: MethodKeys) -> dict[str, ViewGroup]:
        """The image, cropped and turned, and a copy of the same places in other colours."""
        plain = ViewGroup(
            count=1, crop_area_min=0.25, color_probability=0.0, grayscale_probability=0.0, blur_probability=0.0
        )
        return {"image": plain, "copy": ViewGroup(count=1, crop_area_min=0.25, crop_of="image")}

    @classmethod
    def check(cls, recipe: Recipe) -> None:
        """Also refuses a copy of other places, or of another size, and what unlabelled images cannot have."""
        super().check(recipe)
        keys: Any = recipe.method
        image, copy = (recipe.views[name] for name in _VIEWS)
        if copy.crop_of != "image":
            raise ValueError("recipe.views.copy.crop_of: pixels meet those of the same places; set it to image")
        own, other = (each.side(recipe.data.image_size) for each in (image, copy))
        if own != other:
            raise ValueError(
                f"recipe.views.copy.size: {other} px are not recipe.views.image.size, {own}; make them equal"
            )
        if keys.unlabelled == "pixels" and (keys.form != "paper" or keys.loss == "batch"):
            raise ValueError(
                "recipe.method.unlabelled: 'pixels' is of recipe.method.form=paper with recipe.method.loss=within or "
                "cross; set these, or leave unlabelled images out"
            )

    @classmethod
    def small(cls, config: Config, images: int) -> Config:
        """With maps of 4 x 4 pixels and narrow heads."""
        return replace(config, map_size=4, hidden_dim=16, output_dim=16)

    def embed(self, batch: Batch) -> Tensors:
        """``z``: unit vectors (images, 2, pixels, d) of the image's pixels, row by row, and of its copy's."""
        views = torch.cat([batch.views[name] for name in _VIEWS], dim=1)
        maps = self.encoder.map(views.flatten(0, 1))
        if self.config.map_size:
            maps = resized_map(maps, self.config.map_size)
        pixels = maps.flatten(2).transpose(1, 2)
        z = F.normalize(self.projection(pixels.flatten(0, 1)), dim=1)
        return {"z": z.unflatten(0, (len(batch), 2, pixels.shape[1]))}

    def loss(self, embeddings: Tensors, targets: Tensors, batch: Batch) -> Tensors:
        """The mean over the images of the global batch; an image that takes no part counts 0."""
        z, keys = embeddings["z"], self.config
        masks = self._masks(batch, z)
        labels, slots = self._labels(masks)
        loss = pixel_contrast(
            z, labels, keys.temperature, loss=keys.loss, form=keys.form, partners=self._partners(batch), slots=slots
        )
        with torch.no_grad():
            moments = torch.stack((z.mean((1, 2)), z.square().mean((1, 2))), dim=1)
            mean, square = global_batch(moments, "moments of the embeddings").double().mean(0)
        return {"loss": loss, **pixel_cosines(z.detach(), masks), "embedding_std": spread_of_means(mean, square)}

    def embedding_rows(self, embeddings: Tensors) -> Tensor | None:
        """The mean over each image's pixels."""
        return embeddings["z"][:, 0].mean(1)

    def reference_loss(self, embeddings: Tensors, targets: Tensors, batch: Batch) -> Tensor:
        """With one matrix of similarities an image, or of the batch."""
        keys, z = self.config, embeddings["z"]
        labels, _ = self._labels(self._masks(batch, z))
        return plain_pixel_contrast(z, labels, keys.temperature, keys.loss, keys.form, self._partners(batch))

    def _masks(self, batch: Batch, z: Tensor) -> Tensor:
        """Classes of the map's pixels, int64 (images, 2, pixels)."""
        side = isqrt(z.shape[2])
        found = [resized_mask(batch.masks[name][:, 0], side).flatten(1) for name in _VIEWS]
        return torch.stack(found, dim=1).long()

    def _labels(self, masks: Tensor) -> tuple[Tensor, int]:
        """What the loss takes as classes, and a number above them: in unlabelled images every pixel may be its own."""
        if self.config.unlabelled == "left_out":
            return masks, IGNORED + 1
        pixels = IGNORED + 1 + torch.arange(masks.shape[2], device=masks.device)
        labelled = (masks != IGNORED).flatten(1).any(1)[:, None, None]
        return torch.where(labelled, masks, pixels), IGNORED + 1 + masks.shape[2]

    def _partners(self, batch: Batch) -> Tensor:
        """Of each image of the global batch the place of its partner in it, (global images,)."""
        labelled = (batch.masks["image"] != IGNORED).flatten(1).any(1)
        drawn = batch.draws("partner images of pixel contrast", 1)[:, 0]
        return partners(global_batch(drawn, "draws of the partners"), global_batch(labelled, "labelled images"))


def partners(drawn: Tensor, labelled: Tensor) -> Tensor:
    """Of each image of a global batch the place of another one, int64 (images,): the next in the order of the draws,
    among the labelled for a labelled image, the first after the last. Every image is the partner of one; the only
    labelled image is its own, as is the only unlabelled one, and the loss holds it against no other's pixels.

    Args:
        drawn: a number of each image, (images,).
        labelled: whether it has labelled pixels, (images,).
    """
    among = labelled.long().sum()
    order = torch.where(labelled, drawn, drawn + 1).argsort(stable=True)
    place = order.argsort()
    following = torch.where(
        place < among,
        (place + 1) % among.clamp_min(1),
        among + (place + 1 - among) % (len(drawn) - among).clamp_min(1),
    )
    return order[following]
