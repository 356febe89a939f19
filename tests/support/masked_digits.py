"""Digits whose masks are their ink: 0 around it, otherwise the digit and 1; some images have none."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from simclr_dist.config.recipe import Data
from simclr_dist.data.sources.base import IGNORED, ArraySource
from tests.support.images import open_source as open_named


class MaskedDigits(ArraySource):
    def __init__(self, digits: Any) -> None:
        super().__init__(digits.images, digits.labels, digits.classes)
        self.mask_classes = ["around", *(f"digit {number}" for number in range(10))]

    def read_with_mask(self, sample: int) -> tuple[Tensor, Tensor]:
        image = self.read(sample)
        ink = np.uint8(self.labels[sample] + 1)
        mask = torch.where(image[0] >= 128, torch.tensor(ink), torch.tensor(0, dtype=torch.uint8))
        return image, torch.full_like(mask, IGNORED) if sample % 5 == 0 else mask


def open_source(data: Data, split: str) -> MaskedDigits:
    return MaskedDigits(open_named(Data(source="digits"), split))
