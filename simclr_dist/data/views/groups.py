"""What is drawn for the views of images, group by group, as the recipe asks for them."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from simclr_dist.config import Recipe
from simclr_dist.data.views.draws import ViewParameters, draw_views


class DrawnGroup(NamedTuple):
    """The choices for one group of views of n images."""

    name: str
    side: int
    """Of its views, pixels."""
    color_form: str
    parameters: list[ViewParameters]
    """One for each view of the group."""


def draw_groups(recipe: Recipe, epoch: int, samples: NDArray[np.int64]) -> list[DrawnGroup]:
    """The choices for all views of some sample ids, shape (n,), in an epoch.

    Views are numbered over all groups in their order, so no two views of an image have the same random numbers.
    """
    drawn, number = [], 0
    for name, group in recipe.views.items():
        numbers = range(number, number + group.count)
        parameters = [draw_views(group, recipe.seed, epoch, samples, view) for view in numbers]
        drawn.append(DrawnGroup(name, group.side(recipe.data.image_size), group.color_form, parameters))
        number += group.count
    return drawn
