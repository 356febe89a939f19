"""A recipe's model of timm as small as its options allow, for checks that take seconds."""

import inspect
from dataclasses import replace
from typing import Any

import torch

from simclr_dist.config import Recipe
from simclr_dist.config.recipe import Encoder as EncoderKeys
from simclr_dist.errors import UserError
from simclr_dist.models.timm_check import check_side
from simclr_dist.models.timm_encoder import TimmEncoder

_BLOCKS = 2
_SIDES = (32, 64, 96, 128, 224)


def small_timm(recipe: Recipe) -> tuple[EncoderKeys, int]:
    """The keys of the recipe's encoder with fewer blocks where an option says how many, and the smallest side that it
    takes.

    It drops with the recipe's rates. As it is and at the recipe's size where nothing smaller can be made.
    """
    keys, size = recipe.encoder, recipe.data.image_size
    encoder = _made(keys)
    takes = inspect.signature(type(encoder.backbone).__init__).parameters
    fewer: dict[str, Any] = {}
    if "depth" in takes:
        fewer["depth"] = _BLOCKS
    elif "depths" in takes:
        fewer["depths"] = [1] * len(getattr(encoder.backbone, "stages", getattr(encoder.backbone, "layers", range(4))))
    for options in (keys.options | fewer, keys.options):
        for side in (*(side for side in _SIDES if side < size), size):
            smaller = replace(keys, options=options | ({"img_size": side} if "img_size" in takes else {}))
            try:
                check_side(_made(smaller), side)
            except UserError:
                continue
            return smaller, side
    return keys, size


def _made(keys: EncoderKeys) -> TimmEncoder:
    """Without data."""
    with torch.device("meta"), torch.random.fork_rng(devices=[]):
        return TimmEncoder(keys.of_timm, keys.options, frozen=keys.frozen).eval()
