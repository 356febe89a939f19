"""The few transformations of whole images of which every image has a copy: quarter turns, orders of the colours."""

from collections.abc import Callable

import torch
from torch import Tensor

QUARTER_TURNS = 4
_COLOR_ORDERS = ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))
_COLOR_CYCLES = ((0, 1, 2), (1, 2, 0), (2, 0, 1))


def quarter_turns(images: Tensor) -> Tensor:
    """Copies (n, 4, 3, side, side) of images (n, 3, side, side), turned counter-clockwise by 0, 90, 180 and 270
    degrees."""
    return torch.stack([images.rot90(turns, (-2, -1)) for turns in range(QUARTER_TURNS)], dim=1)


def _color_orders(images: Tensor) -> Tensor:
    return torch.stack([images[:, order] for order in _COLOR_ORDERS], dim=1)


def _color_cycles(images: Tensor) -> Tensor:
    return torch.stack([images[:, order] for order in _COLOR_CYCLES], dim=1)


def _half_turns_and_color_cycles(images: Tensor) -> Tensor:
    return torch.cat([_color_cycles(images), _color_cycles(images.rot90(2, (-2, -1)))], dim=1)


TRANSFORMATIONS: dict[str, tuple[int, Callable[[Tensor], Tensor]]] = {
    "rotation": (QUARTER_TURNS, quarter_turns),
    "color_perm": (len(_COLOR_ORDERS), _color_orders),
    "color_perm3": (len(_COLOR_CYCLES), _color_cycles),
    "rot_color_perm6": (2 * len(_COLOR_CYCLES), _half_turns_and_color_cycles),
}
"""Name, as SLA's code has it -> how many copies there are of an image, and what makes them of images (n, 3, s, s); the
first is the image itself."""
