"""What is drawn for the views of images, group by group, as the recipe asks for them."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from simclr_dist.config import Recipe
from simclr_dist.config.views import ViewGroup
from simclr_dist.data.views.draws import ViewParameters, draw_views

_PLACE = ("crop_attempts", "crop_place", "flip")


class DrawnGroup(NamedTuple):
    """The choices for one group of views of n images."""

    name: str
    side: int
    """Of its views, pixels."""
    color_form: str
    interpolation: str
    parameters: list[ViewParameters]
    """One for each view of the group."""

    @property
    def forms(self) -> tuple[str, str]:
        """``color_form`` and ``interpolation``, as renderers take them."""
        return self.color_form, self.interpolation


def draw_groups(recipe: Recipe, epoch: int, samples: NDArray[np.int64]) -> list[DrawnGroup]:
    """The choices for all views of some sample ids, shape (n,), in an epoch.

    Views are numbered over all groups in their order, so no two views of an image have the same random numbers; those
    of a group with ``crop_of`` have the crop and flip of another's first view.
    """
    drawn: list[DrawnGroup] = []
    number = 0
    for name, group in recipe.views.items():
        numbers = range(number, number + group.count)
        parameters = [draw_views(group, recipe.seed, epoch, samples, view) for view in numbers]
        if group.crop_of:
            first = next(each for each in drawn if each.name == group.crop_of).parameters[0]
            parameters = [replace(each, **{field: getattr(first, field) for field in _PLACE}) for each in parameters]
        side = group.side(recipe.data.image_size)
        drawn.append(DrawnGroup(name, side, group.color_form, group.interpolation, parameters))
        number += group.count
    return drawn


def first_group_alone(recipe: Recipe, count: int) -> ViewGroup:
    """``count`` views as the first group's, at the recipe's image size, of the image itself and no frame near it."""
    return replace(next(iter(recipe.views.values())), count=count, size=0, crop_of="", frame="own")


def views_in_words(recipe: Recipe) -> str:
    """How many views of which size each group has."""
    return ", ".join(
        f"{name} ({group.count} of {group.side(recipe.data.image_size)} px, {group.interpolation})"
        for name, group in recipe.views.items()
    )
