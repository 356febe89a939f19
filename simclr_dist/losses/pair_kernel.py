"""NT-Xent on a GPU: programs of Triton (``pair_``, ``symmetric_``, ``row_programs.py``) in the place of ``tiles.py``.

Two float16 pieces a number and three products, as exact as float32's. See docs/design/pair_kernel.md.
"""

import math
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

from simclr_dist.losses.tiles import FLOAT32_LIMIT
from simclr_dist.triton_start import starts_programs

_PROCESSORS = 132  # of an H100; a constant, so that the same rows are added in the same order on every card
_ROW_NUMBERS = 4096  # of a block of rows in the programs over rows
_MOMENTS = 64
_WEIGHED = 2048
_FOLDED, _LINES = 64, 16  # rows and lines of a block where symmetric sums are added


@dataclass(frozen=True)
class Launch:
    """How a program is cut: rows and columns of a tile, columns of the gradient, warps, and stages of loads.

    ``resident``: how many programs a processor holds at a time.
    """

    rows: int = 128
    columns: int = 64
    slice: int = 128
    warps: int = 8
    stages: int = 2
    resident: int = 1


LAUNCHES = {
    64: (Launch(rows=64, warps=4, resident=2), Launch(columns=128, slice=64)),
    128: (Launch(rows=64, warps=4, resident=2), Launch(stages=3)),
    256: (Launch(stages=1), Launch(columns=32, slice=256)),
}
"""Padded width -> pair_sums' and pair_gradient's: the fastest on an H100 of a dozen each (docs/gpu.md)."""
HALVES = {128: Launch(columns=32, warps=4, resident=2)}
"""Padded width -> half_sums': the fastest on an H200 of a dozen, at 8192 rows; other widths were not tried."""


def available(rows: Tensor, temperature: float, processes: int = 1) -> bool:
    """Whether the programs are proved for a process's rows (count, d): no :func:`refusal`, on compute capability 9.0.

    And Triton can start programs on this machine.
    """
    return (
        rows.device.type == "cuda"
        and not refusal(rows, temperature, processes)
        and torch.cuda.get_device_capability(rows.device) == (9, 0)
        and starts_programs()
    )


def refusal(rows: Tensor, temperature: float, processes: int = 1) -> str:
    """Why the programs cannot sum the rows (count, d) of each process, whatever the device; '' when they can."""
    widest = max(LAUNCHES)
    if find_spec("triton") is None:
        return "Triton is not installed"
    if rows.dtype != torch.float32:
        return f"rows are {rows.dtype}, not torch.float32"
    if 1 / temperature > FLOAT32_LIMIT:
        return f"temperature {temperature} is below 1/{FLOAT32_LIMIT:g}"
    if rows.shape[1] > widest:
        return f"rows of {rows.shape[1]} numbers are wider than {widest}"
    if len(rows) * processes * 2 * widest >= 2**31:
        return f"{len(rows) * processes} columns are too many for 32-bit offsets"
    return ""


def normalised(raw: Tensor, smallest: float) -> tuple[Tensor, Tensor]:
    """Unit rows of float32 rows (count, d), contiguous, and their norms (count,), at least ``smallest``."""
    from simclr_dist.losses import row_programs  # only now: Triton need not be there

    count, dim = raw.shape
    rows, norm = torch.empty_like(raw), raw.new_empty(count)
    width = _power_of_two(dim)
    block = _ROW_NUMBERS // width
    row_programs.normalise[(_blocks(count, block),)](raw, rows, norm, count, dim, smallest, width, block)
    return rows, norm


class KernelPairs:
    """NT-Xent of a process's rows with all columns, by Triton's programs; with TRITON_INTERPRET=1 on a CPU too.

    The order: :meth:`sums`, of which a process gathers everyone's; :meth:`loss`; :meth:`gradient`.

    Args:
        columns: the unit rows of all processes, (2 B, d), float32, one process after the other, each view 1 before 2.
        first: where this process's rows begin.
        count: how many they are.
        temperature: T.
    """

    def __init__(self, columns: Tensor, first: int, count: int, temperature: float) -> None:
        from simclr_dist.losses import pair_programs, row_programs, symmetric_programs

        self._pairs, self._rows, self._symmetric = pair_programs, row_programs, symmetric_programs
        self._rule = (pair_programs.two_views, pair_programs.two_views_special)
        self.columns, self.first, self.count, self.temperature = columns, first, count, temperature
        self.factor = math.log2(math.e) / temperature
        number, dim = columns.shape
        self.width = next(width for width in LAUNCHES if width >= dim)
        self.launches = LAUNCHES[self.width]
        self._block = _ROW_NUMBERS // self.width
        # No block of rows or columns reads beyond it.
        beyond = number + sum(max(launch.rows, launch.columns) for launch in self.launches)
        padded = _blocks(beyond, self._block) * self._block
        self.pieces = columns.new_empty(padded, 2, self.width, dtype=torch.float16)
        self.a, self.b, self.own, self.positive = columns.new_empty(4, padded)
        self.mean, self.std = columns.new_empty(self.width), columns.new_empty(())
        moments = columns.new_empty(_MOMENTS, 2, self.width, dtype=torch.float64)
        row_programs.moments[(_MOMENTS,)](columns, moments, number, dim, self.width, self._block)
        row_programs.split[(padded // self._block,)](
            columns, moments, self.pieces, self.a, self.b, self.own, self.positive, self.mean, self.std,
            number, dim, count, self.factor, _MOMENTS, self.width, self._block, num_warps=8,
        )  # fmt: skip

    def sums(self) -> Tensor:
        """Of this process's rows in parts to be added, (2, shares, count): their negatives' exp(s), and their ranks."""
        half = HALVES.get(self.width) if self.count == len(self.columns) else None
        # Where half of the tiles do: what is kept for the columns is to be no more than the pieces.
        if half and 2 * (lines := (_blocks(self.count, half.rows) - 1) // 2) <= self.width:
            return self._symmetric_sums(half, lines)
        grid, constants = self._cut(self.launches[0])
        parts = self.columns.new_empty(2, grid[1], self.count)
        self._pairs.pair_sums[grid](
            self.pieces, self.a, self.b, self.own, parts, self.first, self.count, len(self.columns), self.factor,
            *constants, num_warps=self.launches[0].warps, num_stages=self.launches[0].stages,
        )  # fmt: skip
        return parts

    def _symmetric_sums(self, launch: Launch, lines: int) -> Tensor:
        count = self.count
        blocks = _blocks(count, launch.rows)
        shares = _shares(blocks, (blocks // 2 + 1) * (launch.rows // launch.columns), launch.resident)
        parts, across = self.columns.new_empty(2, shares, count), self.columns.new_empty(2, lines, count)
        self._symmetric.half_sums[blocks, shares](
            self.pieces, self.a, self.b, self.own, parts, across, count, self.factor, *self._rule, self.width,
            launch.rows, launch.columns, num_warps=launch.warps, num_stages=launch.stages,
        )  # fmt: skip
        sums = self.columns.new_empty(2, 1, count)
        self._symmetric.fold[_blocks(count, _FOLDED), 2](parts, across, sums, count, shares, lines, _FOLDED, _LINES)
        return sums

    def loss(self, parts: Tensor) -> tuple[Tensor, Tensor]:
        """The loss, float32, and float64 (3,): the shares of rows with rank 0 and below 5, and the mean rank.

        Args:
            parts: :meth:`sums` of all processes, (processes, 2, shares, count).
        """
        self.weight, self.pull = self.columns.new_empty(2, len(self.a))
        self.largest = self.columns.new_empty(())
        loss, shown = self.columns.new_empty(()), self.columns.new_empty(3, dtype=torch.float64)
        self._rows.weigh[(1,)](
            parts, self.positive, self.weight, self.pull, self.largest, loss, shown, len(self.columns), self.count,
            parts.shape[2], _WEIGHED, num_warps=16,
        )  # fmt: skip
        return loss, shown

    def gradient(self, norm: Tensor, grad_loss: Tensor, scale: float) -> Tensor:
        """grad_loss * scale * the gradient of the loss of this process's rows (count, d) before their normalisation.

        Args:
            norm: their norms, (count,).
            grad_loss: a scalar on the device.
            scale: a number.
        """
        launch = self.launches[1]
        (row_blocks, shares), constants = self._cut(launch)
        dim = self.columns.shape[1]
        parts = self.columns.new_empty(shares, self.count, self.width)
        totals, gradient = self.columns.new_empty(shares, self.count), self.columns.new_empty(self.count, dim)
        self._pairs.pair_gradient[row_blocks, shares, self.width // launch.slice](
            self.pieces, self.a, self.b, self.weight, self.pull, self.largest, parts, totals, self.first,
            self.count, len(self.columns), self.factor, *constants, launch.slice,
            num_warps=launch.warps, num_stages=launch.stages,
        )  # fmt: skip
        self._rows.finish[(_blocks(self.count, self._block),)](
            parts, totals, self.mean, self.columns, norm, grad_loss, gradient, self.first, self.count, dim, shares,
            scale / self.temperature / len(self.columns), self.width, self._block,
        )  # fmt: skip
        return gradient

    def _cut(self, launch: Launch) -> tuple[tuple[int, int], tuple[object, ...]]:
        """(blocks of rows, shares of the columns), and what a program is compiled for."""
        row_blocks = _blocks(self.count, launch.rows)
        shares = _shares(row_blocks, _blocks(len(self.columns), launch.columns), launch.resident)
        return (row_blocks, shares), (*self._rule, self.width, launch.rows, launch.columns)


def _blocks(count: int, size: int) -> int:
    return -(-count // size)


def _power_of_two(number: int) -> int:
    return 1 << (number - 1).bit_length()


@cache
def _shares(row_blocks: int, blocks: int, resident: int = 1) -> int:
    """Into how many shares the column blocks are dealt, so that programs come in full waves of the processors."""
    places = _PROCESSORS * resident
    most = min(blocks, max(4, places // row_blocks))
    return max(range(1, most + 1), key=lambda n: n * row_blocks / math.ceil(n * row_blocks / places) - 0.1 * n)
