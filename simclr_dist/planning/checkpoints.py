"""The size of a checkpoint, to the byte: what a run would write, counted and not kept."""

from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor

from simclr_dist.config import Config
from simclr_dist.data.sources.identity import blank_images
from simclr_dist.planning.fake_step import FakeStep
from simclr_dist.planning.fakes import fake_mode, kernels_of
from simclr_dist.run.checkpoint import write_content
from simclr_dist.run.contents import contents
from simclr_dist.run.state_copy import mapped


class _Counter:
    def __init__(self) -> None:
        self.count = 0

    def write(self, content: bytes) -> int:
        self.count += len(content)
        return len(content)


def checkpoint_bytes(config: Config, images: int) -> int:
    """Bytes of one checkpoint file of a run over ``images``, once the window of its anomalies is full.

    A number's own digits move it by a byte or two, an anomaly that was found by some hundred.
    """
    recipe = config.recipe
    if recipe.initial.weights:  # the start names them
        recipe = replace(recipe, initial=replace(recipe.initial, sha256="0" * 64))
    with fake_mode(), kernels_of("cpu"):
        # Any number of processes writes the same.
        step = FakeStep(replace(config, machine=replace(config.machine, images_per_chunk=0)), 1, images)
        step.make_optimizer_state()
        for number in range(recipe.anomalies.window_steps):
            step.anomalies.judge(number, {"loss": 1.0, "gradient_norm": 1.0})
        if step.rollback_point:
            step.rollback_point.take_when_due(0)
        state: dict[str, Any] = contents(step.state, recipe, blank_images(images))
    counter = _Counter()
    write_content(cast(Any, counter), mapped(state, _empty), step=1)
    return counter.count


def _empty(tensor: Tensor) -> Tensor:
    """A real tensor of the same size in place of a fake one; its memory is never touched but to read."""
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype)
