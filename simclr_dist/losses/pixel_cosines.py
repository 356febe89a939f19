"""How alike pixels of a class are, and of different classes: what a run of pixel contrast shows beside its loss."""

import torch
from torch import Tensor

from simclr_dist.config.metric import Metric
from simclr_dist.distributed.collectives import gather_stacked
from simclr_dist.losses.pixels import IGNORED, PART, Pixels

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
    at_once = max(1, PART // z.shape[2])
    parts = zip(z.split(at_once), labels.split(at_once), strict=True)
    found = torch.cat([_sums(rows, classes) for rows, classes in parts])
    sums = gather_stacked(found, label="cosines of the pixels").flatten(0, 1).sum(0)
    same, other = sums[0] / sums[1].clamp_min(1), sums[2] / sums[3].clamp_min(1)
    margin = torch.where((sums[1] > 0) & (sums[3] > 0), same - other, 0)
    return {"class_margin": margin, "same_class_cosine": same, "labelled_pixels": sums[4] / sums[5]}


def _sums(z: Tensor, labels: Tensor) -> Tensor:
    """Of each image, float64 (images, 6): the cosines of its pixels with the same class and how many pixels have such,
    those with other classes and how many have such, labelled pixels, all pixels."""
    (own, count), (theirs, same) = (_class_sums(z[:, view], labels[:, view]) for view in (0, 1))
    other = same.sum(1, keepdim=True) - same
    with_same = torch.linalg.vecdot(own, theirs) / same.clamp_min(1)
    with_other = torch.linalg.vecdot(own, theirs.sum(1, keepdim=True) - theirs) / other.clamp_min(1)
    columns = (
        with_same, count * (same > 0), with_other, count * (other > 0),
        (labels[:, 0] != IGNORED).double(), torch.ones_like(labels[:, 0]).double(),
    )  # fmt: skip
    return torch.stack([each.sum(1) for each in columns], dim=1)


def _class_sums(rows: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Sums of the rows of each image's classes, (images, slots, d), and how many they are, (images, slots)."""
    images, slots = len(rows), IGNORED + 1
    of_image = torch.arange(images, device=labels.device)[:, None] * slots
    pixels = Pixels(rows.flatten(0, 1), (labels + of_image).flatten(), images * slots)
    found = pixels.class_sums(pixels.rows), pixels.class_counts()
    sums, counts = (each.unflatten(0, (images, slots)) for each in found)
    # Those of IGNORED count nowhere; Pixels leaves out those of the first image alone.
    sums[:, IGNORED], counts[:, IGNORED] = 0, 0
    return sums, counts
