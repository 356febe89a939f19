"""The encoder that is evaluated, and where it comes from."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from simclr_dist import checkpoint
from simclr_dist.build import build_method
from simclr_dist.config import Recipe
from simclr_dist.config.loading import recipe_from_dict
from simclr_dist.errors import UserError
from simclr_dist.models.encoder import Encoder


@dataclass
class Pretrained:
    """An encoder with what evaluation needs to know of it."""

    encoder: Encoder
    projection: nn.Sequential | None
    """The projection head, when the weights have one."""
    recipe: Recipe
    """Of the encoder; its data are the default to evaluate on."""
    steps_done: int

    def digest(self) -> str:
        """SHA-256 of all weights and running statistics."""
        return state_digest([self.encoder, self.projection] if self.projection else [self.encoder])


def load_encoder(run_dir: Path) -> Pretrained:
    """The encoder of a run's newest intact checkpoint, in evaluation mode, float32, on the CPU.

    Raises:
        UserError: there is no intact checkpoint.
    """
    path, complaints = checkpoint.newest_intact(run_dir / "checkpoints")
    if path is None:
        reason = f": {'; '.join(complaints)}" if complaints else "; give the run_dir of a pretraining run"
        raise UserError(f"{run_dir}: no checkpoint to evaluate{reason}")
    state: dict[str, Any] = checkpoint.load(path)
    recipe = recipe_from_dict(state["recipe"])
    method = build_method(recipe)
    method.load_state_dict(state["model"])
    method.eval().float()
    assert isinstance(method.projection, nn.Sequential)
    return Pretrained(method.encoder, method.projection, recipe, int(state["step"]))


def state_digest(modules: Sequence[nn.Module]) -> str:
    """SHA-256 of the state of some modules, names included."""
    digest = hashlib.sha256()
    for module in modules:
        for name, value in module.state_dict().items():
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
