"""Labelled pixels of one image or of many, and sums over their classes."""

from dataclasses import dataclass

import torch
from torch import Tensor

from simclr_dist.data.sources.base import IGNORED

__all__ = ["IGNORED", "PART", "Pixels", "labels_of_partners"]

PART = 4352
"""Rows of which float64 copies are made at once."""


@dataclass(frozen=True)
class Pixels:
    """Unit rows (n, d) and their classes, int64 (n,), below ``slots`` and IGNORED where they count nowhere."""

    rows: Tensor
    labels: Tensor
    slots: int = IGNORED + 1

    @property
    def counted(self) -> Tensor:
        """1 for a pixel that counts, 0 for another, (n,), in the rows' type."""
        return (self.labels != IGNORED).to(self.rows.dtype)

    def class_sums(self, values: Tensor) -> Tensor:
        """Sums over the pixels of a class of values (n, k), float64 (slots, k); 0 for IGNORED.

        In float64: the order of additions hardly shows.
        """
        sums = values.new_zeros(self.slots, values.shape[1], dtype=torch.float64)
        for labels, part in zip(self.labels.split(PART), values.split(PART), strict=True):
            sums.index_add_(0, labels, part.double())
        sums[IGNORED] = 0
        return sums

    def class_counts(self) -> Tensor:
        """Pixels of each class, float64 (slots,); 0 for IGNORED."""
        return self.class_sums(torch.ones_like(self.labels)[:, None])[:, 0]


def labels_of_partners(theirs: Tensor, partners: Tensor, first: int) -> Tensor:
    """Classes of pixels of other images that an image is held against, int64 (images, pixels).

    IGNORED where a class is of one image alone, and wherever an image is its own partner: it is no other image.

    Args:
        theirs: the classes of the partners' pixels, int64 (images, pixels).
        partners: the partners' places in the global batch, int64 (images,).
        first: the place of the first of these images.
    """
    itself = partners == torch.arange(first, first + len(partners), device=partners.device)
    return theirs.where((theirs < IGNORED) & ~itself[:, None], IGNORED)
