"""The size of a checkpoint, to the byte: what checkpoint.save would write, counted and not kept."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from simclr_dist.config import Config, to_dict
from simclr_dist.guards.anomalies import AnomalyWatch
from simclr_dist.methods.build import build_method
from simclr_dist.optim import make_optimizer
from simclr_dist.planning.fakes import default_dtype, kernels_of
from simclr_dist.run.checkpoint import FORMAT
from simclr_dist.run.checksum import COMMENT_BYTES
from simclr_dist.run.state_copy import mapped


class _Counter:
    def __init__(self) -> None:
        self.count = 0

    def write(self, content: bytes) -> int:
        self.count += len(content)
        return len(content)

    def flush(self) -> None:
        pass


def checkpoint_bytes(config: Config, images: int) -> int:
    """Bytes of one checkpoint file of a run over ``images``, once the window of its anomalies is full.

    A number's own digits move it by a byte or two, an anomaly that was found by some hundred.
    """
    recipe = config.recipe
    with FakeTensorMode(), kernels_of("cpu"), default_dtype(config.machine.precision):
        method = build_method(recipe)
        optimizer = make_optimizer(method, recipe.optimizer)
        for parameter in method.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
    scaler = torch.amp.GradScaler("cpu", enabled=config.machine.precision == "float16")
    anomalies = AnomalyWatch(recipe.anomalies, Path(), 0, active=False)
    for step in range(recipe.anomalies.window_steps):
        anomalies.judge(step, {"loss": 1.0, "gradient_norm": 1.0})

    def trained() -> dict[str, Any]:
        states = {"model": method.state_dict(), "optimizer": optimizer.state_dict(), "scaler": scaler.state_dict()}
        copied: dict[str, Any] = mapped(states, _empty)
        return copied

    state = {
        "format": FORMAT,
        **trained(),
        "anomalies": anomalies.state_dict(),
        **({"anchor": {"step": 1, **trained()}} if recipe.anomalies.needs_anchor else {}),
        "recipe": to_dict(recipe),
        "images": {"count": images, "fingerprint": "0" * 64},
        "step": 1,
    }
    counter = _Counter()
    torch.save(state, counter)  # type: ignore[arg-type]
    return counter.count + COMMENT_BYTES


def _empty(tensor: Tensor) -> Tensor:
    """A real tensor of the same size in place of a fake one; its memory is never touched but to read."""
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype)
