"""Encoders that take images of another side than they were trained with."""

from typing import Any

import torch

from simclr_dist.errors import UserError, first_line
from simclr_dist.models.encoder import Encoder
from simclr_dist.models.features import evaluating
from simclr_dist.models.timm_encoder import TimmEncoder


def take_images(encoder: Encoder, side: int) -> bool:
    """Let ``encoder`` take images of such a side, in pixels; returns whether it had to be changed for that.

    A model of timm that takes images of its own side alone (a ViT, a Swin) is given resampled position embeddings or
    other windows by timm's ``set_input_size``. What takes images of any side stays as it is.

    Raises:
        UserError: it cannot take them.
    """
    if not isinstance(encoder, TimmEncoder):
        return False
    try:
        _try(encoder, side)
    except Exception as error:  # each model has its own way to say that an image is of a wrong size
        try:
            _resize(encoder.backbone, side)
            _try(encoder, side)
        except Exception:
            why = first_line(error).rstrip(".")
            raise UserError(
                f"recipe.data.image_size: {encoder.name} takes no images of {side} px ({why}); take a multiple of its "
                "patches, or the size of its training"
            ) from error
        return True
    return False


def _resize(backbone: Any, side: int) -> None:
    patch = backbone.patch_embed.patch_size[0]
    if side % patch:  # timm would leave pixels out at the right and below
        raise ValueError(f"{side} is no multiple of {patch}")
    backbone.set_input_size(img_size=(side, side))


@torch.inference_mode()
def _try(encoder: TimmEncoder, side: int) -> None:
    with evaluating(encoder):
        encoder(torch.zeros(1, 3, side, side, dtype=torch.uint8, device=encoder.mean.device))
