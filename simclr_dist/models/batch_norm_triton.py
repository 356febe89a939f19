"""Batch norm of groups on a GPU by the programs of ``batch_norm_programs.py``, all groups of a process in one launch.

torch's kernels (``batch_norm_cuda.py``) are launched a group, and sum at a fifth of an H100's memory bandwidth.
"""

import math
from dataclasses import dataclass
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
    """Whether they take ``x``: it is on a GPU and holds numbers, nobody traces it, and Triton can start programs."""
    traced = torch.compiler.is_compiling() or isinstance(x, FakeTensor)
    return x.is_cuda and not traced and starts_programs()


@dataclass(frozen=True)
class _Cut:
    """How ``x`` (rows, channels, ...) in so many groups is dealt to programs."""

    groups: int
    channels: int
    rows: int
    """Of a group: images, times pixels."""
    inner: int
    last: bool
    sums: torch.dtype
    tile_rows: int
    tile_channels: int

    @classmethod
    def of(cls, x: Tensor, groups: int) -> "_Cut":
        channels = x.shape[1]
        inner = x[0, 0].numel() if x.dim() > 2 else 1
        last = inner == 1 or x.movedim(1, -1).is_contiguous()
        tile_channels = min(128, 2 ** math.ceil(math.log2(channels))) if last else 1
        sums = torch.promote_types(x.dtype, torch.float32)
        return cls(
            groups, channels, len(x) // groups * inner, inner, last, sums,
            max(1, _TILE_BYTES // sums.itemsize // tile_channels), tile_channels,
        )  # fmt: skip

    @property
    def channel_blocks(self) -> int:
        return math.ceil(self.channels / self.tile_channels)

    def parts(self) -> tuple[int, int]:
        """Into how many parts the rows of a group are cut for a sum, and of how many rows."""
        wanted = max(1, _PROGRAMS // (self.channel_blocks * self.groups))
        part = math.ceil(math.ceil(self.rows / wanted) / self.tile_rows) * self.tile_rows
        return math.ceil(self.rows / part), part

    def blocks(self) -> int:
        """Of TILES tiles in a group's rows."""
        return math.ceil(self.rows / (self.tile_rows * _TILES))

    def constants(self) -> dict[str, Any]:
        import triton.language as tl

        return {
            "LAST": self.last, "SUM": tl.float64 if self.sums == torch.float64 else tl.float32,
            "ROWS": self.tile_rows, "CHANNELS": self.tile_channels,
        }  # fmt: skip


def statistics(x: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Mean and biased variance."""
    from simclr_dist.models import batch_norm_programs as programs  # only now: Triton need not be there

    cut = _Cut.of(x, groups)
    parts, part = cut.parts()
    of_parts = x.new_empty((2, groups * parts, cut.channels), dtype=cut.sums)
    programs.partial_moments[groups * parts, cut.channel_blocks](
        x, of_parts[0], of_parts[1], cut.rows, part, parts, cut.inner, cut.channels, **cut.constants()
    )
    made = x.new_empty((2, groups, cut.channels), dtype=cut.sums)
    programs.joined_moments[groups, math.ceil(cut.channels / _JOINED_CHANNELS)](
        of_parts[0], of_parts[1], made[0], made[1], cut.rows, part, parts, cut.channels,
        PARTS=_JOINED_PARTS, CHANNELS=_JOINED_CHANNELS,
    )  # fmt: skip
    return made[0], made[1]


def normalise(x: Tensor, weight: Tensor, bias: Tensor | None, mean: Tensor, inverse: Tensor, eps: float) -> Tensor:
    """``(x - mean) * inverse * weight + bias``."""
    from simclr_dist.models import batch_norm_programs as programs

    cut, y = _Cut.of(x, len(mean)), torch.empty_like(x)
    programs.normalised[cut.groups * cut.blocks(), cut.channel_blocks](
        x, weight, weight if bias is None else bias, mean, inverse, y, cut.rows, cut.blocks(), cut.inner, cut.channels,
        BIAS=bias is not None, TILES=_TILES, **cut.constants(),
    )  # fmt: skip
    return y


def gradient_sums(grad: Tensor, x: Tensor, mean: Tensor, inverse: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Sums of ``grad`` and of ``grad * (x - mean)``."""
    from simclr_dist.models import batch_norm_programs as programs

    cut = _Cut.of(x, len(mean))
    parts, part = cut.parts()
    of_parts = x.new_empty((2, cut.groups * parts, cut.channels), dtype=cut.sums)
    programs.partial_sums[cut.groups * parts, cut.channel_blocks](
        grad, x, mean, of_parts[0], of_parts[1], cut.rows, part, parts, cut.inner, cut.channels, **cut.constants()
    )
    made = x.new_empty((2, cut.groups, cut.channels), dtype=cut.sums)
    programs.joined_sums[cut.groups, math.ceil(cut.channels / _JOINED_CHANNELS)](
        of_parts[0], of_parts[1], made[0], made[1], parts, cut.channels,
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
) -> Tensor:
    """``weight * inverse * (grad - sum_grad / count - (x - mean) * inverse^2 * sum_grad_x / count)``."""
    from simclr_dist.models import batch_norm_programs as programs

    cut, made = _Cut.of(x, len(mean)), torch.empty_like(x)
    programs.input_gradients[cut.groups * cut.blocks(), cut.channel_blocks](
        grad, x, weight, mean, inverse, sum_grad, sum_grad_x, made, cut.rows, cut.blocks(), cut.inner, cut.channels,
        count, TILES=_TILES, **cut.constants(),
    )  # fmt: skip
    return made
