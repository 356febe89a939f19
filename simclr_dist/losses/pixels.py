"""Labelled pixels of one image or of many, and sums over their classes."""

from dataclasses import dataclass

import torch
from torch import Tensor

from simclr_dist.data.sources.base import IGNORED

__all__ = ["IGNORED", "PART", "Pixels"]

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
