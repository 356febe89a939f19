"""The random choices of a view, apart from their rendering.

Every number is a function of (recipe.seed, epoch, sample id, view), so any renderer on any process, after any restart,
makes the same view. The distributions are SimCLR's (Chen et al. 2020, appendix A), in torchvision's parametrisation.
"""

from dataclasses import dataclass
from functools import cached_property
from itertools import permutations

import numpy as np
from numpy.typing import NDArray

from simclr_dist.config.views import Views
from simclr_dist.data.views.affine_color import color_mixes
from simclr_dist.data.views.geometry import ASPECT_RATIOS
from simclr_dist.random.philox import Purpose, uniforms

CROP_ATTEMPTS = 10
_ORDERS = np.array(list(permutations(range(4))), dtype=np.int8)


@dataclass(frozen=True, kw_only=True)
class ViewParameters:
    """What is done to each of n images; plain arrays, one row an image."""

    crop_attempts: NDArray[np.float64]
    """(n, 10, 2): share of the area and aspect ratio (width / height) of the crops to try in turn."""
    crop_place: NDArray[np.float64]
    """(n, 2): where the crop lies in the room that is left, from top and from left, in [0, 1)."""
    flip: NDArray[np.bool_]
    color: NDArray[np.bool_]
    """Whether the four colour operations are applied."""
    color_order: NDArray[np.int8]
    """(n, 4): their order, as indices into COLOR_OPERATIONS."""
    color_factors: NDArray[np.float64]
    """(n, 4): brightness, contrast and saturation factors (1 = unchanged) and hue shift in turns (0 = unchanged)."""
    grayscale: NDArray[np.bool_]
    blur_sigma: NDArray[np.float64]
    """Standard deviation in pixels of the view; 0 = not blurred."""
    solarize: NDArray[np.bool_]

    @cached_property
    def color_mixes(self) -> NDArray[np.float64]:
        """(n, 3, 6): the four colour operations in their affine form, see affine_color.py."""
        return color_mixes(self.color, self.color_order, self.color_factors)


def draw_views(recipe: Views, seed: int, epoch: int, samples: NDArray[np.int64], view: int) -> ViewParameters:
    """The choices for view number ``view`` of some sample ids, shape (n,), in an epoch."""
    u = uniforms(seed, Purpose.VIEW, epoch, samples, view, 33)
    attempts = u[:, :20].reshape(-1, CROP_ATTEMPTS, 2)
    area = recipe.crop_area_min + attempts[..., 0] * (recipe.crop_area_max - recipe.crop_area_min)
    low, high = np.log(ASPECT_RATIOS)
    strengths = recipe.color_strength * np.array([recipe.brightness, recipe.contrast, recipe.saturation])
    lowest = np.maximum(0.0, 1.0 - strengths)
    factors = lowest + u[:, 24:27] * (1.0 + strengths - lowest)
    hue = (2.0 * u[:, 27:28] - 1.0) * recipe.hue * recipe.color_strength
    sigma = recipe.blur_sigma_min + u[:, 30] * (recipe.blur_sigma_max - recipe.blur_sigma_min)
    return ViewParameters(
        crop_attempts=np.stack((area, np.exp(low + attempts[..., 1] * (high - low))), axis=-1),
        crop_place=u[:, 20:22],
        flip=u[:, 22] < recipe.flip_probability,
        color=u[:, 23] < recipe.color_probability,
        color_order=_ORDERS[(u[:, 32] * len(_ORDERS)).astype(np.int64)],
        color_factors=np.concatenate((factors, hue), axis=1),
        grayscale=u[:, 28] < recipe.grayscale_probability,
        blur_sigma=np.where(u[:, 29] < recipe.blur_probability, sigma, 0.0),
        solarize=u[:, 31] < recipe.solarize_probability,
    )
