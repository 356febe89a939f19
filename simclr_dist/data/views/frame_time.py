"""When the frames of a batch were taken, as tensors that a DataLoader can send and pin."""

from typing import NamedTuple

from torch import Tensor


class FrameTime(NamedTuple):
    """Of the frames that one group of views shows, int64 (images,) each."""

    sequence: Tensor
    """Frames of two sequences are never near."""
    frame: Tensor
    """Its number in the sequence: a moment, the same in all cameras."""
    camera: Tensor
