"""Batch norm of groups on a GPU by the programs of ``batch_norm_programs.py``, all groups of a process in one launch.

torch's own kernels (``batch_norm_cuda.py``) are launched for each group, and reach a fifth to two thirds of what an
H100's memory gives where these reach 75 to 95 % (docs/gpu.md).
"""

import math
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from simclr_dist.triton_start import starts_programs

_PROGRAMS = 1056
"""That sum a tensor: eight a processor of an H100. A constant, so that every card adds in the same order."""
_TILE_BYTES = 1 << 14
"""Of a tile in the type that is summed."""
_TILES = 4
"""Of a program that writes a tile for each that it reads."""
_JOINED_PARTS, _JOINED_CHANNELS = 128, 8


def available(x: Tensor) -> bool:
    """Whether they take ``x``: it is on the current GPU and holds numbers, nobody traces it, and Triton can start
    programs (which it does on the current GPU, whichever their tensors are on)."""
    if not x.is_cuda or torch.compiler.is_compiling() or isinstance(x, FakeTensor):
        return False
    return x.get_device() == torch.cuda.current_device() and starts_programs()


@dataclass(frozen=True)
class _Cut:
    """How a tensor (rows, channels, ...) in so many groups is dealt to programs."""

    groups: int
    channels: int
    rows: int
    """Of a group: images, times pixels."""
    inner: int
    """Pixels of an image."""
    sums: torch.dtype
    tile_rows: int
    tile_channels: int
    channel_blocks: int
    part: int
    """Rows that one program sums."""
    parts: int
    """In a group's rows."""
    blocks: int
    """Of _TILES tiles in a group's rows."""
    constants: dict[str, Any]
    """What the programs are compiled for."""


def _cut(x: Tensor, groups: int) -> _Cut:
    return _cut_of(tuple(x.shape), x.stride(1) == 1, x.dtype, groups)


@cache  # of a run's few shapes: the host has less time for a layer than a GPU takes for it
def _cut_of(shape: tuple[int, ...], last: bool, dtype: torch.dtype, groups: int) -> _Cut:
    """``last``: the channels of a pixel stand together in memory."""
    import triton.language as tl

    images, channels, *pixels = shape
    inner, sums = math.prod(pixels), torch.promote_types(dtype, torch.float32)
    rows = images // groups * inner
    tile_channels = min(128, 2 ** math.ceil(math.log2(channels))) if last else 1
    tile_rows, channel_blocks = (
        max(1, _TILE_BYTES // sums.itemsize // tile_channels),
        math.ceil(channels / tile_channels),
    )
    wanted = max(1, _PROGRAMS // (channel_blocks * groups))
    part = math.ceil(math.ceil(rows / wanted) / tile_rows) * tile_rows
    constants = {
        "LAST": last, "SUM": tl.float64 if sums == torch.float64 else tl.float32, "ROWS": tile_rows,
        "CHANNELS": tile_channels,
    }  # fmt: skip
    return _Cut(
        groups, channels, rows, inner, sums, tile_rows, tile_channels, channel_blocks, part,
        math.ceil(rows / part), math.ceil(rows / (tile_rows * _TILES)), constants,
    )  # fmt: skip


def statistics(x: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Mean and biased variance."""
    from simclr_dist.models import batch_norm_programs as programs  # only now: Triton need not be there

    cut = _cut(x, groups)
    of_parts = x.new_empty((2, groups * cut.parts, cut.channels), dtype=cut.sums)
    programs.partial_moments[groups * cut.parts, cut.channel_blocks](
        x, of_parts[0], of_parts[1], cut.rows, cut.part, cut.parts, cut.inner, cut.channels, **cut.constants
    )
    made = x.new_empty((2, groups, cut.channels), dtype=cut.sums)
    programs.joined_moments[groups, math.ceil(cut.channels / _JOINED_CHANNELS)](
        of_parts[0], of_parts[1], made[0], made[1], cut.rows, cut.part, cut.parts, cut.channels,
        PARTS=_JOINED_PARTS, CHANNELS=_JOINED_CHANNELS,
    )  # fmt: skip
    return made[0], made[1]


def normalise(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    mean: Tensor,
    inverse: Tensor,
    eps: float,
    *,
    added: Tensor | None = None,
    rectified: bool = False,
) -> Tensor:
    """``(x - mean) * inverse * weight + bias``, with ``added`` (as ``x`` in all) to it, and ``rectified``."""
    from simclr_dist.models import batch_norm_programs as programs

    cut, y = _cut(x, len(mean)), torch.empty_like(x)
    programs.normalised[cut.groups * cut.blocks, cut.channel_blocks](
        x, weight, weight if bias is None else bias, mean, inverse, x if added is None else added, y,
        cut.rows, cut.blocks, cut.inner, cut.channels,
        BIAS=bias is not None, TILES=_TILES, ADDED=added is not None, RECTIFIED=rectified, **cut.constants,
    )  # fmt: skip
    return y


def gradient_sums(
    grad: Tensor,
    x: Tensor,
    mean: Tensor,
    inverse: Tensor,
    weight: Tensor,
    *,
    bias: Tensor | None = None,
    rectified: bool = False,
) -> tuple[Tensor, Tensor]:
    """Sums of ``grad`` and of ``grad * (x - mean)``, where the output (``rectified``) was above 0."""
    return _sums(grad, x, weight, bias, mean, inverse, rectified=rectified)


def masked_gradient_sums(grad: Tensor, x: Tensor, y: Tensor, mean: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """``grad`` where ``y`` is above 0, else 0; its sum and that of it times ``x - mean`` come first."""
    masked = torch.empty_like(grad)
    return *_sums(grad, x, mean, None, mean, mean, y, masked, rectified=True), masked


def _sums(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    mean: Tensor,
    inverse: Tensor,
    y: Tensor | None = None,
    masked: Tensor | None = None,
    *,
    rectified: bool,
) -> tuple[Tensor, Tensor]:
    from simclr_dist.models import batch_norm_programs as programs

    cut = _cut(x, len(mean))
    of_parts = x.new_empty((2, cut.groups * cut.parts, cut.channels), dtype=cut.sums)
    programs.partial_sums[cut.groups * cut.parts, cut.channel_blocks](
        grad, x, x if y is None else y, weight, weight if bias is None else bias, mean, inverse,
        x if masked is None else masked, of_parts[0], of_parts[1],
        cut.rows, cut.part, cut.parts, cut.inner, cut.channels,
        BIAS=bias is not None, RECTIFIED=rectified, GIVEN=y is not None, **cut.constants,
    )  # fmt: skip
    made = x.new_empty((2, cut.groups, cut.channels), dtype=cut.sums)
    programs.joined_sums[cut.groups, math.ceil(cut.channels / _JOINED_CHANNELS)](
        of_parts[0], of_parts[1], made[0], made[1], cut.parts, cut.channels,
        PARTS=_JOINED_PARTS, CHANNELS=_JOINED_CHANNELS,
    )  # fmt: skip
    return made[0], made[1]


def input_gradient(
    grad: Tensor,
    x: Tensor,
    mean: Tensor,
    inverse: Tensor,
    weight: Tensor,
    sum_grad: Tensor,
    sum_grad_x: Tensor,
    count: int,
    *,
    bias: Tensor | None = None,
    rectified: bool = False,
) -> Tensor:
    """``weight * inverse * (grad - sum_grad / count - (x - mean) * inverse^2 * sum_grad_x / count)``, with ``grad``
    where the output (``rectified``) was above 0, else 0."""
    from simclr_dist.models import batch_norm_programs as programs

    cut, made = _cut(x, len(mean)), torch.empty_like(x)
    programs.input_gradients[cut.groups * cut.blocks, cut.channel_blocks](
        grad, x, weight, weight if bias is None else bias, mean, inverse, sum_grad, sum_grad_x, made,
        cut.rows, cut.blocks, cut.inner, cut.channels, count,
        TILES=_TILES, BIAS=bias is not None, RECTIFIED=rectified, **cut.constants,
    )  # fmt: skip
    return made
