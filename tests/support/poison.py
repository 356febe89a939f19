"""Steps of a run whose numbers are spoilt."""

from collections.abc import Callable
from typing import Any

import torch

from simclr_dist.models.encoder import Encoder
from simclr_dist.training.step import TrainingStep

NOW = {"step": 0}
"""The step that is being done, counted from 1; 0 outside :func:`poisoned`."""


def poisoned(bad_steps: tuple[int, ...], spoil: Callable[[torch.Tensor], torch.Tensor], function: Callable) -> Any:
    """``function()`` with the encoder's output spoilt in the given steps, counted from 1."""
    call, forward = TrainingStep.__call__, Encoder.forward

    def noted(self, images, steps_done):
        NOW["step"] = steps_done + 1
        return call(self, images, steps_done)

    def spoilt(self, images, **options):
        features = forward(self, images, **options)
        return spoil(features) if NOW["step"] in bad_steps else features

    TrainingStep.__call__, Encoder.forward = noted, spoilt
    try:
        return function()
    finally:
        TrainingStep.__call__, Encoder.forward = call, forward
        NOW["step"] = 0
