"""How alike pixels of a class are, and of different classes: what a run of pixel contrast shows beside its loss."""

import torch
from torch import Tensor

from simclr_dist.config.metric import Metric
from simclr_dist.distributed.collectives import gather_stacked
from simclr_dist.losses.pixels import IGNORED, Pixels

PIXEL_METRICS = {
    "class_margin": Metric(
        title="margin of the classes", role="headline", band=True,
        text="mean cosine of a pixel with its class in the image's copy, minus that with the copy's other classes",
        below="the learning rate, recipe.method.temperature and, in metrics.jsonl, embedding_std (0: collapse)",
        above="whether masks and recipe are those that the band is of",
    ),
    "same_class_cosine": Metric(title="cosine with pixels of the same class", text="in the image's copy"),
    "labelled_pixels": Metric(
        title="labelled pixels", unit="%", from_zero=True, text="of the maps of the global batch; others count nowhere"
    ),
}  # fmt: skip
"""What :func:`pixel_cosines` gives, for the METRICS of a method."""


def pixel_cosines(z: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Over the global batch, from sums over classes: O(pixels * d). No gradient flows back.

    Args:
        z: unit rows of images and copies, (images, 2, pixels, d).
        labels: int64 (images, 2, pixels), IGNORED where they count nowhere.
    """
    pairs = zip(z, labels, strict=True)
    found = torch.stack([_sums(*(Pixels(rows[v], classes[v]) for v in (0, 1))) for rows, classes in pairs])
    sums = gather_stacked(found, label="cosines of the pixels").flatten(0, 1).sum(0)
    same, other = sums[0] / sums[1].clamp_min(1), sums[2] / sums[3].clamp_min(1)
    margin = torch.where((sums[1] > 0) & (sums[3] > 0), same - other, 0)
    return {"class_margin": margin, "same_class_cosine": same, "labelled_pixels": sums[4] / sums[5]}


def _sums(image: Pixels, copy: Pixels) -> Tensor:
    """Of an image, float64 (6,): the cosines of its pixels with the same class and how many pixels have such, those
    with other classes and how many have such, labelled pixels, all pixels."""
    own, theirs = image.class_sums(image.rows), copy.class_sums(copy.rows)
    count, same = image.class_counts(), copy.class_counts()
    other = same.sum() - same
    with_same = torch.linalg.vecdot(own, theirs) / same.clamp_min(1)
    with_other = torch.linalg.vecdot(own, theirs.sum(0) - theirs) / other.clamp_min(1)
    return torch.stack((
        with_same.sum(), (count * (same > 0)).sum(), with_other.sum(), (count * (other > 0)).sum(),
        (image.labels != IGNORED).double().sum(), torch.ones_like(image.labels).double().sum(),
    ))  # fmt: skip
