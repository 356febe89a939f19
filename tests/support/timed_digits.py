"""Digits as frames: all of one class are a sequence, in the order of their ids."""

from typing import Any

import numpy as np

from simclr_dist.config.recipe import Data
from simclr_dist.data.sources.base import ArraySource
from simclr_dist.data.sources.times import FrameTimes
from tests.support.images import open_source as open_named


class TimedDigits(ArraySource):
    def __init__(self, digits: Any) -> None:
        super().__init__(digits.images, digits.labels, digits.classes)
        sequence = digits.labels
        frame = np.zeros_like(sequence)
        for each in np.unique(sequence):
            frame[sequence == each] = np.arange((sequence == each).sum())
        self.times = FrameTimes(sequence, frame, np.zeros_like(frame))
        self.pair = (sequence, frame)
        """What names an image."""


def open_source(data: Data, split: str) -> TimedDigits:
    return TimedDigits(open_named(Data(source="digits"), split))
