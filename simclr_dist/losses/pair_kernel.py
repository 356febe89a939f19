"""NT-Xent's sums over pairs on a GPU: the programs of ``pair_programs.py`` in the place of ``tiles.py``'s eager tiles.

Two bfloat16 pieces a number (three products, errors of 2^-17 in z_i.z_j) for T >= 0.1, three pieces (six products, as
float32) below. See docs/design/pair_kernel.md.
"""

import math
from dataclasses import dataclass
from functools import cache, partial
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from simclr_dist.errors import first_line
from simclr_dist.log import log
from simclr_dist.losses.tiles import FLOAT32_LIMIT, PairSums, positive_similarities

_TWO_PIECES_FROM = 0.1
_PROCESSORS = 132  # of an H100; a constant, so that the same rows are added in the same order on every card
_SPLIT_ROWS = 16


@dataclass(frozen=True)
class Launch:
    """How the programs are cut: rows and columns of a tile, columns of the gradient, warps, and stages of loads."""

    rows: int = 128
    columns: int = 64
    slice: int = 128
    warps: int = 8
    stages: int = 2


LAUNCHES = {
    (2, 64): Launch(slice=64), (2, 128): Launch(), (2, 256): Launch(columns=32),
    (3, 64): Launch(slice=64), (3, 128): Launch(),
}  # fmt: skip
"""(pieces, padded width) -> what was compiled for sm_90 without spills, within its shared memory.

Three pieces of 256 spill unless the gradient is made in four slices, which costs more than it gains."""


def pieces_for(temperature: float) -> int:
    """How many bfloat16 pieces a number is cut into, so that the gradient is within 1e-5 of float64's."""
    return 2 if temperature >= _TWO_PIECES_FROM else 3


def available(columns: Tensor, temperature: float) -> bool:
    """Whether the programs are proved for these columns (2 B, d): no :func:`refusal`, on compute capability 9.0.

    And Triton can start programs on this machine: up to version 3.6 it asks a C compiler and Python.h for that.
    """
    return (
        columns.device.type == "cuda"
        and not refusal(columns, temperature)
        and torch.cuda.get_device_capability(columns.device) == (9, 0)
        and _can_start()
    )


@cache
def _can_start() -> bool:
    """Asked once, as the answer is a line of the log."""
    try:
        from triton.runtime import driver

        driver.active.get_current_target()
    except Exception as error:  # of any kind: what Triton calls is the machine's
        log.warning("the loss goes by eager tiles, as Triton cannot start programs here: %s", first_line(error))
        return False
    log.info("the loss goes by a Triton kernel; compiling it takes some seconds, once on a machine")
    return True


def refusal(columns: Tensor, temperature: float) -> str:
    """Why the programs cannot sum these columns (2 B, d), whatever the device; '' when they can."""
    widths = [width for pieces, width in LAUNCHES if pieces == pieces_for(temperature)]
    if find_spec("triton") is None:
        return "Triton is not installed"
    if columns.dtype != torch.float32:
        return f"rows are {columns.dtype}, not torch.float32"
    if 1 / temperature > FLOAT32_LIMIT:
        return f"temperature {temperature} is below 1/{FLOAT32_LIMIT:g}"
    if columns.shape[1] > max(widths):
        return f"rows of {columns.shape[1]} numbers are wider than {max(widths)}, at temperature {temperature}"
    if len(columns) * 3 * max(widths) >= 2**31:
        return f"{len(columns)} columns are too many for 32-bit offsets"
    return ""


class KernelPairs:
    """As :class:`simclr_dist.losses.tiles.Pairs`, by Triton's programs; with TRITON_INTERPRET=1 on a CPU too.

    Args:
        columns: the unit rows of all processes, (2 B, d), float32, one process after the other, each view 1 before 2.
        first: where this process's rows begin.
        count: how many they are.
        temperature: T.

    Raises:
        ValueError: the programs cannot sum these columns; see :func:`refusal`.
    """

    def __init__(self, columns: Tensor, first: int, count: int, temperature: float) -> None:
        if reason := refusal(columns, temperature):
            raise ValueError(f"no kernel for these pairs: {reason}")
        from simclr_dist.losses import pair_programs as programs  # only now: Triton need not be there

        self.columns = columns = columns.contiguous()
        self.rows = columns[first : first + count]
        self.temperature, self.count = temperature, count
        self.factor = math.log2(math.e) / temperature
        self.mean = columns.mean(0)
        pieces = pieces_for(temperature)
        width = next(width for of, width in LAUNCHES if of == pieces and width >= columns.shape[1])
        launch = LAUNCHES[pieces, width]
        blocks = math.ceil(len(columns) / launch.columns)
        padded = blocks * launch.columns + launch.rows  # no block of rows or columns reads beyond it
        # On a CPU only the interpreter runs; it cannot multiply bfloat16.
        dtype = torch.float32 if columns.device.type == "cpu" else torch.bfloat16
        self.pieces = columns.new_empty(padded, pieces, width, dtype=dtype)
        a, self.b = columns.new_empty(padded, dtype=torch.float64), columns.new_empty(padded)
        programs.split[(math.ceil(padded / _SPLIT_ROWS),)](
            columns, self.mean, self.pieces, a, self.b, len(columns), columns.shape[1],
            PIECES=pieces, D=width, BLOCK=_SPLIT_ROWS,
        )  # fmt: skip
        row_blocks = math.ceil(count / launch.rows)
        self.shares = _shares(row_blocks, blocks)
        self.a = a[first : first + count]
        self._own = (self.pieces[first:], (self.a * self.factor).float())
        grid = (row_blocks, self.shares)
        self.slices = width // launch.slice
        constants = {
            "rule": programs.two_views, "PIECES": pieces, "D": width, "ROWS": launch.rows, "COLUMNS": launch.columns,
            "num_warps": launch.warps, "num_stages": launch.stages,
        }  # fmt: skip
        self._last = (count, len(columns), self.factor, (first, count))
        self._pair_sums: Any = partial(programs.pair_sums[grid], **constants)
        gradient = programs.pair_gradient[(*grid, self.slices)]
        self._pair_gradient: Any = partial(gradient, SLICE=launch.slice, **constants)

    def forward(self) -> PairSums:
        """The sums over all columns of every row."""
        similarities = positive_similarities(self.rows)
        own = (similarities - self.a).float()
        negatives, rank = (self.columns.new_empty(self.shares, self.count) for _ in range(2))
        self._pair_sums(*self._own, own, self.pieces, self.b, negatives, rank, *self._last)
        negatives, rank = negatives.sum(0), rank.sum(0)
        return PairSums(negatives, similarities.div_(self.temperature).exp_().float(), rank)

    def gradient(self, sums: PairSums, all_sums: PairSums) -> Tensor:
        """sum over j of (p_ij + p_ji - 2 [j = pos(i)]) z_j for every row of this process, times 1/T.

        Args:
            sums: of this process's rows.
            all_sums: of all columns; the weight of a row is 1 / (its positive + its negatives).
        """
        own, everyone = _weight_and_pull(sums), _weight_and_pull(all_sums)
        parts = self.columns.new_empty(self.shares, self.count, self.pieces.shape[2])
        totals = self.columns.new_empty(self.slices, self.shares, self.count)
        columns = (self.pieces, self.b, *everyone)
        self._pair_gradient(*self._own, *own, *columns, parts, totals, *self._last)
        # sum_j G_ij z_j = sum_j G_ij c_j + mean * sum_j G_ij, as in tiles.py.
        gradient = parts.sum(0)[:, : self.columns.shape[1]]
        return gradient.addr_(totals[0].sum(0), self.mean).div_(self.temperature)


def _weight_and_pull(sums: PairSums) -> tuple[Tensor, Tensor]:
    """1 / (positive + negatives), and p_i,pos(i) - 1 without cancellation."""
    weight = 1 / (sums.positives + sums.negatives)
    return weight, -sums.negatives * weight


def _shares(row_blocks: int, blocks: int) -> int:
    """Into how many shares the column blocks are dealt, so that programs come in full waves of the processors."""
    most = min(blocks, max(4, _PROCESSORS // row_blocks))
    return max(range(1, most + 1), key=lambda n: n * row_blocks / math.ceil(n * row_blocks / _PROCESSORS) - 0.1 * n)
