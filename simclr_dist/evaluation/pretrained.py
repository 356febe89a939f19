"""The encoder that is evaluated, and where it comes from."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from simclr_dist.config import Recipe
from simclr_dist.config.recipe import Data
from simclr_dist.config.recipe import Encoder as EncoderKeys
from simclr_dist.models.encoder import Encoder
from simclr_dist.weights import read


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


def load_encoder(path: Path) -> Pretrained:
    """The encoder of a run (its newest intact checkpoint), of a checkpoint, an export or a foreign file of weights.

    In evaluation mode, float32, on the CPU. The recipe of a foreign file knows the encoder alone.

    Raises:
        UserError: there is no such encoder.
    """
    loaded = read.load_encoder(path)
    assert loaded.projection is None or isinstance(loaded.projection, nn.Sequential)
    return Pretrained(loaded.encoder, loaded.projection, loaded.recipe or _recipe_of(loaded), loaded.steps_done or 0)


def _recipe_of(loaded: read.LoadedEncoder) -> Recipe:
    known = loaded.architecture
    return Recipe(
        data=Data(image_size=loaded.image_size, mean=loaded.mean, std=loaded.std),
        encoder=EncoderKeys(name=known.name, width=known.width, stem=known.stem),
    )


def state_digest(modules: Sequence[nn.Module]) -> str:
    """SHA-256 of the state of some modules, names included."""
    digest = hashlib.sha256()
    for module in modules:
        for name, value in module.state_dict().items():
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
