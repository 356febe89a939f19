"""Parameters of a view that a test chooses one by one."""

import numpy as np

from simclr_dist.data.views.draws import ViewParameters


def parameters(
    *,
    flip: bool = False,
    color: bool = False,
    order: tuple[int, ...] = (0, 1, 2, 3),
    factors: tuple[float, ...] = (1.0, 1.0, 1.0, 0.0),
    grayscale: bool = False,
    sigma: float = 0.0,
    solarize: bool = False,
) -> ViewParameters:
    """One row; what is not named is off, and the crop takes a square image whole."""
    return ViewParameters(
        crop_attempts=np.ones((1, 10, 2)),
        crop_place=np.zeros((1, 2)),
        flip=np.array([flip]),
        color=np.array([color]),
        color_order=np.array([order], dtype=np.int8),
        color_factors=np.array([factors]),
        grayscale=np.array([grayscale]),
        blur_sigma=np.array([sigma]),
        solarize=np.array([solarize]),
    )
