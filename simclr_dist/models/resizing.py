"""Maps and masks at another size, corners on corners, as the release of pixel contrast resizes them."""

import torch
from torch import Tensor


def _places(side: int, new: int) -> Tensor:
    """Where the new rows lie among the old ones, float64 (new,): the first on the first, the last on the last."""
    return torch.arange(new, dtype=torch.float64) * ((side - 1) / (new - 1) if new > 1 else side / new)


def resized_map(maps: Tensor, side: int) -> Tensor:
    """Bilinear, maps (rows, channels, h, w) to (rows, channels, side, side).

    As products with the weights of each direction: the gradient of torch's own has another order of additions, so other
    bits, in each run on a GPU.
    """
    for _ in range(2):  # the columns, then the rows
        if maps.shape[3] != side:
            places = _places(maps.shape[3], side)
            left = places.floor().clamp(max=maps.shape[3] - 1)
            weights = torch.zeros(side, maps.shape[3], dtype=torch.float64)
            weights.scatter_add_(1, left.long()[:, None], (1 - (places - left))[:, None])
            weights.scatter_add_(1, (left.long() + 1).clamp(max=maps.shape[3] - 1)[:, None], (places - left)[:, None])
            maps = maps @ weights.T.to(maps.device, maps.dtype)
        maps = maps.transpose(2, 3)
    return maps


def resized_mask(masks: Tensor, side: int) -> Tensor:
    """The nearest pixel's class, halves rounded up: masks (..., h, w) to (..., side, side)."""
    for dim in (-2, -1):
        places = (_places(masks.shape[dim], side) + 0.5).floor().long().clamp(max=masks.shape[dim] - 1)
        masks = masks.index_select(dim, places.to(masks.device))
    return masks
