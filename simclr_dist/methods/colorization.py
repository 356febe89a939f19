"""Colorization: which colour each place of an image has, told from its lightness."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from simclr_dist.config.fields import MOST_CHANNELS, number
from simclr_dist.distributed.global_batch import global_batch
from simclr_dist.losses.color_bins import (
    annealed_mean,
    bin_centres,
    colors_of_cells,
    is_colored,
    rebalancing_weights,
    soft_encoding,
)
from simclr_dist.methods.base import About, Batch, MethodKeys, Metric, Published, Tensors
from simclr_dist.methods.color_task import COLOR_METRICS, ColorTask, over_colored
from simclr_dist.methods.parts import Parts
from simclr_dist.models.encoder import LIGHTNESS

_FIXED_POINT = 2**16
"""Counts of shares are whole numbers, so that their sums have the same bits in any order of additions."""


class Colorization(ColorTask):
    """Zhang, Isola and Efros 2016 (arXiv 1603.08511): the colours of each cell of the encoder's map, as classes.

    The encoder sees the lightness alone, also when it is evaluated. How common each colour is, which the weights are
    made of, is counted as the run goes, and smoothed as the answers are; published, it was counted before, on ImageNet.
    """

    recordable = True
    ABOUT: ClassVar[About | None] = About(
        title="Colorization", paper="Zhang et al. 2016", arxiv="1603.08511", keeps=("prior",),
        published=Published(40.11, epochs=28, from_memory=True),
        equation=(
            "L = - mean over images and cells h of w(q*) sum_q Z_hq log softmax_q(f_h),   q* = argmax_q Z_hq\n"
            "Z_hq ~ exp(-|ab_h - c_q|^2 / 2 sigma^2) over the nearest bins c_q\n"
            "w(q) ~ 1 / ((1 - lambda) prior_q + lambda/Q)"
        ),
    )  # fmt: skip

    TAKES: ClassVar[str] = LIGHTNESS
    PICTURES: ClassVar[str] = "the input, its lightness; the answer, the colours as classes; and the view"

    @dataclass(kw_only=True)
    class Config(MethodKeys):
        """The keys of colorization."""

        neighbours: int = number(5, low=1, high=100)
        """Bins that share a place's colour (the paper: 5; its released training code: 10)."""
        sigma: float = number(5.0, above=0.0, high=1000.0)
        """Width of the Gaussian that shares it out, in units of a and b."""
        uniform_share: float = number(0.5, low=0.0, high=1.0)
        """The paper's lambda: rare colours count more, in proportion to one over their share mixed with this much of
        the uniform one. 1: all count alike."""
        annealing: float = number(0.38, above=0.0, high=1.0)
        """Temperature of the colour that is guessed, of color_error alone: 1 is the mean, near 0 the likeliest."""
        hidden_dim: int = number(256, low=1, high=MOST_CHANNELS)
        """Channels between the map and the classes."""

    METRICS: ClassVar[Mapping[str, Metric]] = {
        **COLOR_METRICS,
        "color_error": Metric(
            title="error of the colour", from_zero=True,
            text="distance of the guessed a and b from the place's, in images with colour",
        ),
    }  # fmt: skip
    color_counts: Tensor
    centres: Tensor

    def __init__(self, config: Config, make: Parts, images: int) -> None:
        super().__init__(config, make, images)
        self.register_buffer("centres", centres := bin_centres(), persistent=False)
        self.classifier = make.mlp((self.encoder.output_dim, config.hidden_dim, len(centres)), bias=True, norm=True)
        # Every colour has been seen once before the first image.
        self.register_buffer("color_counts", torch.full((len(centres),), _FIXED_POINT))

    @property
    def prior(self) -> Tensor:
        """The share of each bin in the images so far, float64 (bins,)."""
        return self.color_counts.double() / self.color_counts.sum()

    def targets(self, batch: Batch) -> Tensors:
        """``bins`` (images, cells, neighbours) with ``shares``; ``weights`` (images, cells), 0 in grey images;
        ``colors`` (images, cells, 2); ``colored`` (images,), 1 or 0."""
        lab = self.lab(batch)
        colors = colors_of_cells(lab, (self.map_side, self.map_side))
        encoded = soft_encoding(colors, self.centres, self.config.neighbours, self.config.sigma)
        colored = is_colored(lab).to(colors.dtype)
        weights = rebalancing_weights(self.prior, self.config.uniform_share).to(colors.dtype)
        return {
            "bins": encoded.bins, "shares": encoded.shares, "colors": colors, "colored": colored,
            "weights": weights[encoded.bins[..., 0]] * colored[:, None],
        }  # fmt: skip

    def embed(self, batch: Batch) -> Tensors:
        """``logits`` (images, cells, bins), row by row; ``features`` (images, d), without a gradient."""
        maps = self.encoder.map(batch.views["global"][:, 0])
        cells = maps.flatten(2).transpose(1, 2)
        logits: Tensor = self.classifier(cells.flatten(0, 1)).unflatten(0, cells.shape[:2])
        return {"features": self.encoder.pool(maps.detach()), "logits": logits}

    def loss(self, embeddings: Tensors, targets: Tensors, batch: Batch) -> Tensors:
        """Equation 2, the mean over the cells of the global batch; those of grey images count 0."""
        log_chances = embeddings["logits"].log_softmax(-1)
        cells = -(log_chances.gather(-1, targets["bins"]) * targets["shares"]).sum(-1)
        losses = (targets["weights"] * cells).mean(1)
        with torch.no_grad():
            right = log_chances.argmax(-1) == targets["bins"][..., 0]
            guessed = annealed_mean(log_chances, self.centres, self.config.annealing)
            error = (guessed - targets["colors"]).norm(dim=-1)
            top1, distance, colored = over_colored(targets["colored"], right, error)
        return {
            "loss": global_batch(losses, "losses").mean(), "color_top1": top1, "color_error": distance,
            "colored_images": colored,
        }  # fmt: skip

    def after_update(self, embeddings: Tensors, targets: Tensors, batch: Batch, step: int, steps: int) -> None:
        """The colours of the step are counted."""
        shares = targets["shares"].double() * targets["colored"][:, None, None]
        own = torch.zeros_like(self.color_counts)
        own.scatter_add_(0, targets["bins"].flatten(), (shares * _FIXED_POINT).round().long().flatten())
        self.color_counts += global_batch(own[None], "counts of the colours").sum(0)

    def reference_loss(self, embeddings: Tensors, targets: Tensors, batch: Batch) -> Tensor:
        """With the whole distribution over the bins, cell by cell."""
        keys, centres = self.config, bin_centres().to(embeddings["logits"])
        weights = 1 / ((1 - keys.uniform_share) * self.prior + keys.uniform_share / len(centres))
        weights /= (self.prior * weights).sum()
        losses = []
        for colors, logits, colored in zip(targets["colors"], embeddings["logits"], targets["colored"], strict=True):
            for color, row in zip(colors, logits, strict=True):
                distances = (color - centres).square().sum(1)
                near = distances <= distances.sort().values[keys.neighbours - 1]
                z = torch.where(near, torch.exp(-distances / (2 * keys.sigma**2)), 0)
                weight = weights[distances.argmin()] * colored
                losses.append(-weight * (z / z.sum() * row.softmax(0).log()).sum())
        return torch.stack(losses).mean()
