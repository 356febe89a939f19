"""Patches of a view: where they lie, how they are cut, and what is done to their colours."""

from typing import NamedTuple

import torch
from torch import Tensor

COLOR_SHORTCUTS = ("drop", "project", "none")
_CONTRAST = 50.0  # root mean square of a patch's numbers, pixel values of 0..255 (deepcontext's train.py)
_TINY = 1e-6  # of a patch of one colour, so that it stays 0
# 6 B of arXiv 1505.05192, section 3.1: colours without their part along (-1, 2, -1), the axis from green to magenta.
_PROJECTION = ((5, 2, -1), (2, 2, 2), (-1, 2, 5))
_LOW_32 = 0xFFFFFFFF
_GROUND = 224  # of pictures; frames between them are white


class Neighbourhood(NamedTuple):
    """Nine patches in three rows of a view, in whole pixels."""

    patch: int
    """Side of a patch."""
    gap: int
    """Between neighbours that have not been moved."""
    jitter: int
    """How far a patch may be moved, each way along each axis."""

    @classmethod
    def of(cls, side: int, gap: float, jitter: float) -> "Neighbourhood":
        """The largest that fits into a view; gap and jitter are shares of a patch's side.

        Raises:
            ValueError: none fits.
        """
        for patch in range(side // 3, 0, -1):
            found = cls(patch, round(gap * patch), round(jitter * patch))
            if found.side <= side:
                return found
        raise ValueError(f"no three patches in a row fit into views of {side} pixels")

    @property
    def side(self) -> int:
        """What the nine need, wherever they are moved."""
        return 3 * self.patch + 2 * self.gap + 2 * self.jitter


def moved(draws: Tensor, jitter: int) -> Tensor:
    """Whole pixels from -jitter to jitter, of numbers in [0, 1)."""
    return (draws * (2 * jitter + 1)).long() - jitter


def cut(views: Tensor, left: Tensor, top: Tensor, patch: int) -> Tensor:
    """Patches (images, count, 3, patch, patch) of views (images, 3, s, s), whose corners are int64 (images, count)."""
    steps = torch.arange(patch, device=views.device)
    rows, columns = top[..., None] + steps, left[..., None] + steps
    images = torch.arange(len(views), device=views.device)[:, None, None, None]
    # Indices around the channels' slice: they come first, (images, count, patch, patch), and the channels last.
    found: Tensor = views[images, :, rows[..., :, None], columns[..., None, :]]
    return found.movedim(-1, 2)


def without_color_shortcut(patches: Tensor, shortcut: str, draws: Tensor, mean: Tensor) -> Tensor:
    """float32 patches of one mean and contrast, from which chromatic aberration cannot be told unless ``shortcut`` is
    ``none``: a lens shifts red and blue against green, more the farther from its axis, which tells where a patch was.

    As deepcontext's train.py: each channel's mean is taken off, the patch is scaled to a root mean square of 50, and
    ``mean`` is added, which the encoder subtracts.

    Args:
        patches: uint8 (images, count, 3, p, p).
        shortcut: ``drop``: one channel is kept, and noise of one pixel value takes the place of the others;
            ``project``: colours lose their part along the axis from green to magenta; ``none``: they stay as they are.
        draws: in [0, 1), float64 (images, count, 2): for the channel that is kept, and for the noise.
        mean: of the channels, (3,), in pixel values.
    """
    pixels = patches.double()
    if shortcut == "project":
        pixels = torch.einsum("ij,ncjhw->ncihw", pixels.new_tensor(_PROJECTION), pixels)
    pixels = pixels - pixels.mean((-2, -1), keepdim=True)
    if shortcut == "drop":
        kept = (draws[..., 0] * 3).long()[..., None] == torch.arange(3, device=patches.device)
        pixels = torch.where(kept[..., None, None], pixels, _noise(draws[..., 1], pixels))
    contrast = pixels.square().mean((-3, -2, -1), keepdim=True).sqrt()
    return (pixels * (_CONTRAST / contrast.clamp_min(_TINY)) + mean.double()[:, None, None]).float()


def _noise(draws: Tensor, like: Tensor) -> Tensor:
    """Numbers from -0.5 to 0.5, another for each pixel, the same on every device: a hash of the patch's number and the
    pixel's place (the mixing steps of MurmurHash3's 32-bit finaliser)."""
    pixels = torch.arange(like[0, 0].numel(), device=like.device).view(like.shape[2:])
    keys = (draws * 2**32).long()[..., None, None, None]
    return (_mixed(keys ^ _mixed(pixels)) >> 16).double() / 2**16 - 0.5


def _mixed(numbers: Tensor) -> Tensor:
    numbers = ((numbers ^ (numbers >> 16)) * 0x85EBCA6B) & _LOW_32
    numbers = ((numbers ^ (numbers >> 13)) * 0xC2B2AE35) & _LOW_32
    return numbers ^ (numbers >> 16)


def on_canvas(patches: Tensor, left: Tensor, top: Tensor, side: int) -> Tensor:
    """Light gray pictures uint8 (images, 3, side, side) with patches (images, count, 3, p, p) at their corners."""
    canvas = torch.full((len(patches), 3, side, side), _GROUND, dtype=torch.uint8, device=patches.device)
    patch = patches.shape[-1]
    for image, (corners_left, corners_top) in enumerate(zip(left.tolist(), top.tolist(), strict=True)):
        for number, (x, y) in enumerate(zip(corners_left, corners_top, strict=True)):
            canvas[image, :, y : y + patch, x : x + patch] = patches[image, number].round().clamp(0, 255)
    return canvas
