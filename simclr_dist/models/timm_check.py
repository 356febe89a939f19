"""Whether timm's model of a recipe can be made and takes the recipe's images, asked before anything else is done."""

from typing import Any

import torch

from simclr_dist.config import Recipe
from simclr_dist.config.registry import method_class
from simclr_dist.errors import UserError, first_line
from simclr_dist.models.timm_encoder import TimmEncoder

_DATA = "recipe.data.image_size"


def check_recipe(recipe: Recipe) -> None:
    """Refuse an encoder that timm cannot make, or that takes no images of the recipe's sizes: those that it gets in
    training, and recipe.data.image_size.

    Nothing is computed: tensors without data.

    Raises:
        UserError: naming the key and the cure.
    """
    keys = recipe.encoder
    with torch.device("meta"), torch.random.fork_rng(devices=[]):
        encoder = TimmEncoder(keys.of_timm, keys.options, frozen=keys.frozen).eval()
    sides = sorted({recipe.data.image_size, *method_class(recipe.method.name).sides(recipe)})
    for side in sides:
        check_side(encoder, side, several=len(sides) > 1)


def check_side(encoder: TimmEncoder, side: int, *, several: bool = False) -> None:
    """Refuse images of a side that an encoder without data does not take.

    Args:
        encoder: on torch's meta device.
        side: of the images, in pixels.
        several: whether there are images of other sides, too.

    Raises:
        UserError: naming the key and the cure.
    """
    try:
        with torch.no_grad():
            features = encoder(torch.zeros(2, 3, side, side, dtype=torch.uint8, device="meta"))
    except NotImplementedError:  # a layer that torch knows nothing of without data: the start finds out
        return
    except Exception as error:  # each model has its own way to say that an image is of a wrong size
        raise UserError(f"{_cure(encoder, side, several)} ({first_line(error)})") from error
    if tuple(features.shape) != (2, encoder.output_dim):
        raise UserError(
            f"recipe.encoder.options: {encoder.name} makes features {tuple(features.shape)} of 2 images with them, not "
            f"(2, {encoder.output_dim}); leave the option out that changes how it pools"
        )


def _cure(encoder: TimmEncoder, side: int, several: bool) -> str:
    patches: Any = getattr(encoder.backbone, "patch_embed", None)
    own, patch = (getattr(patches, key, None) for key in ("img_size", "patch_size"))
    if own is None or patch is None:
        return f"{_DATA}: {encoder.name} takes no images of {side} px; take larger ones"
    own, patch = (each[0] if isinstance(each, tuple | list) else each for each in (own, patch))
    text = f"{_DATA}: {encoder.name} takes images of {own} px in patches of {patch}, and gets some of {side} px; set "
    if side % patch:
        cure = f"or let it get images of a multiple of {patch} px"
        return f"{text}recipe.encoder.options.patch_size to a divisor of {side}, {cure}"
    if several:
        return f"{text}recipe.encoder.options.dynamic_img_size=true, where it is a ViT, for images of several sizes"
    return f"{text}recipe.encoder.options.img_size={side}"
