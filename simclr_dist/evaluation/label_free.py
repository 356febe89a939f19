"""RankMe, alpha-ReQ and LiDAR of an encoder: what can be said of its features where images have no labels."""

from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from simclr_dist.config import Recipe
from simclr_dist.data.rendering.renderers import RENDERERS
from simclr_dist.data.sources.base import ImageSource, Subset
from simclr_dist.data.sources.identity import contents_digest
from simclr_dist.data.sources.summary import summary
from simclr_dist.data.views.groups import draw_groups, first_group_alone
from simclr_dist.errors import AgreedError
from simclr_dist.evaluation.context import OpenedImages
from simclr_dist.evaluation.feature_blocks import Features
from simclr_dist.evaluation.features import extract_features
from simclr_dist.evaluation.results import Found
from simclr_dist.evaluation.spectra import DELTA, FIRST_RANK, LAST_RANK, alpha_req, lidar
from simclr_dist.losses.spread import rank_me
from simclr_dist.models.features import evaluating

IMAGES = 25_600
"""Of which the spectra are taken, at most (Garrido et al. 2022, section 3)."""
IMAGES_WITH_VIEWS, VIEWS = 1000, 10
"""Of LiDAR (Thilak et al. 2024, section 4: 1,000 images; 50 views for some methods, 10 for others)."""
_ROWS_AT_ONCE = 4096


class UnlabelledImages(OpenedImages):
    """An encoder, and images for pretraining: labels, if there are some, are not looked at."""

    SPLITS: ClassVar[tuple[str, ...]] = ("pretrain",)

    def summaries(self) -> tuple[str, ...]:
        return (f"images: {summary(self.train, self.data.source)}",)


class ViewsOf:
    """Views of the images of another source, drawn as for pretraining, as images: view j of image i is number
    i * views + j. They depend on (seed, number of the image, view) alone."""

    labels: NDArray[np.int64] | None = None

    def __init__(self, source: ImageSource, recipe: Recipe, views: int, seed: int) -> None:
        """``recipe``: the views are those of its first group, at its ``data.image_size``."""
        self.source, self.views, self.side, self.seed = source, views, recipe.data.image_size, seed
        self.group = first_group_alone(recipe, views)
        drawn = replace(recipe, views={"views": self.group}, seed=seed)
        (self.drawn,) = draw_groups(drawn, 0, np.arange(len(source)))
        self.classes: list[str] = []
        self._read: tuple[int, Tensor] | None = None

    def __len__(self) -> int:
        return len(self.source) * self.views

    def read(self, sample: int) -> Tensor:
        image, view = divmod(sample, self.views)
        if self._read is None or self._read[0] != image:
            self._read = image, self.source.read(image)
        return RENDERERS["numba"].view(self._read[1], self.drawn.parameters[view], image, self.side, *self.drawn.forms)

    def fingerprint(self) -> str:
        return f"{contents_digest(self.source)} {self.seed} {self.side} {self.group}"


@dataclass(frozen=True, kw_only=True)
class LabelFreeRow:
    """One line of the table."""

    name: str
    """``features``, or ``embeddings`` of the projection head."""
    dimensions: int
    rank_me: float
    alpha_req: float | None
    """None: too few directions for a power law."""
    lidar: float


@dataclass(frozen=True, kw_only=True)
class LabelFreeResult(Found):
    """What was found of one encoder on one set of images."""

    rows: tuple[LabelFreeRow, ...]

    def table(self) -> str:
        lines = [f"{'':<14}{'dimensions':>12}{'RankMe':>10}{'alpha-ReQ':>11}{'LiDAR':>10}"]
        for row in self.rows:
            alpha = "-" if row.alpha_req is None else f"{row.alpha_req:.3f}"
            lines.append(f"{row.name:<14}{row.dimensions:>12}{row.rank_me:>10.2f}{alpha:>11}{row.lidar:>10.2f}")
        return "\n".join(lines)


def label_free(context: UnlabelledImages, *, views: int = VIEWS, seed: int = 0) -> LabelFreeResult:
    """The three measures of features, and of embeddings where the weights have a projection head.

    RankMe and alpha-ReQ are those of centre crops of up to IMAGES images, LiDAR that of ``views`` views each of up to
    IMAGES_WITH_VIEWS images; both choices of images are evenly spaced. Every process calls it and gets the same.

    Raises:
        UserError: fewer than three images, or one cannot be read.
    """
    if len(context.train) < 3:
        raise AgreedError(f"label-free: {len(context.train)} images have no spectrum; it needs three at least")
    size, encoder = context.data.image_size, context.pretrained.encoder
    plain, several = (_evenly(context.train, most) for most in (IMAGES, IMAGES_WITH_VIEWS))
    drawn = ViewsOf(several, replace(context.recipe, data=context.data), views, seed)
    how = context.how
    features = extract_features(encoder, plain, size, replace(how, label="images"))
    of_views = extract_features(encoder, drawn, size, replace(how, label="views"))
    rows = [_row("features", features, of_views, views)]
    if (head := context.pretrained.projection) is not None:
        rows.append(_row("embeddings", _embedded(head, features), _embedded(head, of_views), views))
    return LabelFreeResult(
        method="label-free",
        steps_done=context.steps_done,
        encoder_sha256=context.encoder_sha256,
        data={
            "source": context.data.source,
            "image_size": size,
            "images": len(context.train),
            "fingerprint": context.train.fingerprint(),
            **context.pixel_facts(),
        },
        own_images=context.own_images,
        protocol={
            "images": len(plain), "images_with_views": len(several), "views": views, "drawn": asdict(drawn.group),
            "seed": seed, "delta": DELTA, "ranks": [FIRST_RANK, LAST_RANK],
        },
        rows=tuple(rows),
    )  # fmt: skip


def _evenly(source: ImageSource, most: int) -> ImageSource:
    if len(source) <= most:
        return source
    return Subset(source, np.linspace(0, len(source) - 1, most).astype(np.int64))


@torch.inference_mode()
def _embedded(head: nn.Module, features: Features) -> Features:
    head = head.cpu()
    with evaluating(head):
        parts = [head(part) for part in torch.from_numpy(np.array(features)).split(_ROWS_AT_ONCE)]
    embedded: Features = torch.cat(parts).numpy()
    return embedded


def _row(name: str, features: Features, of_views: Features, views: int) -> LabelFreeRow:
    rows: Any = torch.from_numpy(np.array(features))
    grouped: Any = torch.from_numpy(np.array(of_views)).unflatten(0, (-1, views))
    return LabelFreeRow(
        name=name,
        dimensions=rows.shape[1],
        rank_me=float(rank_me(rows)),
        alpha_req=alpha_req(rows),
        lidar=lidar(grouped),
    )
