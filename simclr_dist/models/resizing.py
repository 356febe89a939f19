"""Maps and masks at another size: bilinear, and by the nearest pixel.

Where corners lie on corners it is as the release of pixel contrast resizes them.
"""

from collections.abc import Callable

import torch
from torch import Tensor


def _places(side: int, new: int, device: torch.device) -> Tensor:
    """Where the new rows lie among the old ones, float64 (new,): the first on the first, the last on the last."""
    return _numbers(new, device) * ((side - 1) / (new - 1) if new > 1 else side / new)


def _centres(side: int, new: int, device: torch.device) -> Tensor:
    """As :func:`_places`, of rows that are as wide as they are apart: all of the new ones cover all of the old ones."""
    return ((_numbers(new, device) + 0.5) * (side / new) - 0.5).clamp(0, side - 1)


def _numbers(count: int, device: torch.device) -> Tensor:
    # Made where they are needed: a copy from the host could not be recorded with a step.
    return torch.arange(count, dtype=torch.float64, device=device)


def resized_map(maps: Tensor, side: int) -> Tensor:
    """Bilinear, corners on corners, maps (rows, channels, h, w) to (rows, channels, side, side)."""
    return _products(maps, (side, side), _places)


def resized_logits(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear, pixels on pixels (torch's ``align_corners=False``), maps (rows, channels, h, w) to ``size``."""
    return _products(maps, size, _centres)


def _products(maps: Tensor, size: tuple[int, int], where: Callable[[int, int, torch.device], Tensor]) -> Tensor:
    """As products with the weights of each direction: the gradient of torch's own has another order of additions, so
    other bits, in each run on a GPU."""
    for new in reversed(size):  # the columns, then the rows
        if (old := maps.shape[3]) != new:
            apart = _numbers(old, maps.device)[:, None] - where(old, new, maps.device)
            maps = maps @ (1 - apart.abs()).clamp(min=0).to(maps.dtype)
        maps = maps.transpose(2, 3)
    return maps


def resized_mask(masks: Tensor, side: int) -> Tensor:
    """The nearest pixel's class, halves rounded up: masks (..., h, w) to (..., side, side)."""
    for dim in (-2, -1):
        places = (_places(masks.shape[dim], side, masks.device) + 0.5).floor().long().clamp(max=masks.shape[dim] - 1)
        masks = masks.index_select(dim, places)
    return masks
