"""Multi-crop: small views of an image beside its whole ones (Caron et al. 2020, arXiv 2006.09882, section 3.2)."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from simclr_dist.config import Recipe
from simclr_dist.config.views import ViewGroup

SIDE = 96
_WHOLE_SIDE = 224  # of the whole views that the small ones are published with
_SMALLEST_SIDE = 8


def with_small(whole: dict[str, ViewGroup], count: int, small: ViewGroup) -> dict[str, ViewGroup]:
    """The groups of whole views and, unless ``count`` is 0, the group ``small`` of so many, with ``small``'s colours:
    crops of 0.05 to 0.14 of the image at 96 pixels."""
    if not count:
        return whole
    return {**whole, "small": replace(small, count=count, size=SIDE, crop_area_min=0.05, crop_area_max=0.14)}


def check_small(recipe: Recipe, whole: str) -> None:
    """Refuse small views that are larger than those of the group ``whole``.

    Raises:
        ValueError: naming the key, a value that fits, and the other choice.
    """
    if "small" not in recipe.views:
        return
    side, largest = (recipe.views[name].side(recipe.data.image_size) for name in ("small", whole))
    if side > largest:
        fits = max(_SMALLEST_SIDE, round(largest * SIDE / _WHOLE_SIDE))
        raise ValueError(
            f"recipe.views.small.size: small views of {side} pixels, whole ones of {largest}; set "
            f"recipe.views.small.size={fits}, or recipe.method.small_views=0 for none"
        )


def features_by_size(encoder: nn.Module, *sizes: Tensor) -> Tensor:
    """Features (images, views, d) of views (images, count, ...) of several sizes, each in a pass of its own."""
    return torch.cat([encoder(views.flatten(0, 1)).unflatten(0, views.shape[:2]) for views in sizes], dim=1)
