"""NT-Xent, forward and backward: the kernel, eager tiles and what others would take, each against float64."""

import math
from collections.abc import Callable, Generator, Iterator
from typing import Any, Literal

import torch
from loss_contenders import cross_entropy, lightly
from torch import Tensor
from torch.nn import functional as F

from gpu_sections.here import Here, Row, failed
from simclr_dist.losses import nt_xent

TEMPERATURE = 0.1
Loss = Callable[[Tensor, Tensor], Tensor]
"""Two views' embeddings (images, d) -> the loss."""
Seconds = tuple[float, float]
"""From the host, and of the device's kernels alone: in a step that is recorded the host is ahead, and these count."""
_ERROR, _MILLISECONDS, _TIMES = 1e-5, 0.35, 5.0


def rows(here: Here) -> Iterator[Row]:
    sizes = here.size([(8192, 128), (32768, 128), (65536, 256)], [(64, 16)])
    problems = {(count, d): _Problem(count, d, here) for count, d in sizes}
    tiles: dict[tuple[int, int], Seconds] = {}
    for size, problem in problems.items():
        tiles[size] = yield from problem.row("eager tiles", lambda: _ours("tiles"))
        yield from problem.row("kernel", lambda: _ours("kernel"), tiles[size])
    for size, problem in problems.items():
        yield from problem.row("cross-entropy, compiled", lambda: _compiled(cross_entropy(), here), tiles[size])
    for size in sizes[:1]:  # the others take too long: 580 ms at 32,768 rows on an H100
        yield from problems[size].row("FlexAttention", lambda: _flex(here), tiles[size])
        yield from problems[size].row("FlexAttention, bfloat16", lambda: _flex(here, torch.bfloat16), tiles[size])
        yield from problems[size].row("lightly", lightly, tiles[size])


class _Problem:
    """Embeddings, and the loss and its gradient in float64."""

    def __init__(self, count: int, d: int, here: Here) -> None:
        self.name, self.here = f"{count} rows of {d}", here
        first = torch.randn(count // 2, d, generator=torch.Generator().manual_seed(0))
        second = first + torch.randn(count // 2, d, generator=torch.Generator().manual_seed(1))
        self.views = [view.to(here.device).requires_grad_() for view in (first, second)]
        self.loss, self.gradient = exact(torch.cat(self.views).detach().double())

    def row(self, what: str, make: Callable[[], Loss], tiles: Seconds | None = None) -> Generator[Row, None, Seconds]:
        """Its row; returns its seconds. ``tiles``: those of the eager tiles."""
        what = f"{self.name}: {what}"
        seconds = busy = math.nan
        try:
            loss = make()
            seconds = self.here.seconds(lambda: self._both_passes(loss), rounds=5, warm_up=2)
            peak, _ = self.here.peak_bytes(lambda: self._both_passes(loss))
            busy = self.here.busy_seconds(lambda: self._both_passes(loss))
            error = self._error(loss)
        except Exception as problem:  # one contender's failure is one row
            yield failed(what, problem)
        else:
            numbers = {"seconds": seconds, "busy_seconds": busy, "error": error, "peak_bytes": peak}
            faster = ""
            if tiles:
                numbers |= {"of_tiles": tiles[0] / seconds, "busy_of_tiles": tiles[1] / busy if busy else math.nan}
                faster = f", {numbers['of_tiles']:.1f}x the tiles' speed, {numbers['busy_of_tiles']:.1f}x in kernels"
            figure = (
                f"{1e3 * seconds:.2f} ms, of them {1e3 * busy:.2f} in kernels{faster}, error {error:.1e}, "
                f"peak {peak / 1e9:.2f} GB"
            )
            yield Row(what, figure, numbers, *self._verdict(what, numbers))
        return seconds, busy

    def _verdict(self, what: str, numbers: dict[str, float]) -> tuple[str, bool | None]:
        if not what.endswith("kernel"):
            return "", None
        wanted, holds = f"error {_ERROR:g}", numbers["error"] <= _ERROR
        if self.name.startswith("8192"):
            wanted += f", in kernels {_TIMES:g}x the tiles and {_MILLISECONDS} ms on an H100"
            holds = holds and numbers["busy_of_tiles"] >= _TIMES and 1e3 * numbers["busy_seconds"] <= _MILLISECONDS
        return wanted, self.here.bound(holds)

    def _both_passes(self, loss: Loss) -> Tensor:
        for view in self.views:
            view.grad = None
        value = loss(*self.views)
        value.backward()
        return value.detach()

    def _error(self, loss: Loss) -> float:
        """The larger of the loss's and the gradient's, relative."""
        value = float(self._both_passes(loss))
        gradient = torch.cat([view.grad for view in self.views if view.grad is not None]).double()
        return max(float((gradient - self.gradient).norm() / self.gradient.norm()), abs(value / self.loss - 1))


def exact(raw: Tensor) -> tuple[float, Tensor]:
    """NT-Xent of float64 rows (2 B, d), view 1 first, and its gradient, by blocks of rows of the whole matrix.

    Chen et al. 2020, equation 1, and its derivative; nothing of the project's own loss.
    """
    z = F.normalize(raw, dim=1)
    count, columns = len(z), torch.arange(len(z), device=z.device)
    partner = columns.roll(count // 2)
    positives = (z * z[partner]).sum(1) / TEMPERATURE

    def similarities(block: Tensor) -> Tensor:
        own = z[block] @ z.T / TEMPERATURE
        return own.masked_fill_(block[:, None] == columns, -math.inf)

    sums = torch.cat([similarities(block).logsumexp(1) for block in columns.split(4096)])
    gradient = -2 * z[partner]
    for block in columns.split(4096):
        own = similarities(block)
        gradient[block] += ((own - sums[block, None]).exp() + (own - sums).exp()) @ z
    gradient /= count * TEMPERATURE
    gradient -= (gradient * z).sum(1, keepdim=True) * z  # through the normalisation
    return float((sums - positives).mean()), gradient / raw.norm(dim=1, keepdim=True)


def _ours(pairs: Literal["kernel", "tiles"]) -> Loss:
    """By the kernel or the eager tiles of the project's own loss."""
    return lambda z_1, z_2: nt_xent(z_1, z_2, TEMPERATURE, pairs=pairs).loss


def _compiled(loss: Loss, here: Here) -> Loss:
    return torch.compile(loss, dynamic=False, backend=here.size("inductor", "aot_eager"))


def _flex(here: Here, precision: torch.dtype = torch.float32) -> Loss:
    """The log-sum-exp of an attention of the rows to themselves, which keeps no matrix either."""
    from torch.nn.attention.flex_attention import flex_attention

    attend: Any = torch.compile(flex_attention, dynamic=False) if here.on_gpu else flex_attention

    def others(score: Tensor, _batch: Tensor, _head: Tensor, row: Tensor, column: Tensor) -> Tensor:
        return torch.where(row == column, -math.inf, score)

    def loss(z_1: Tensor, z_2: Tensor) -> Tensor:
        z = F.normalize(torch.cat((z_1, z_2)), dim=1)
        rows = z.to(precision)[None, None]
        _, sums = attend(rows, rows, rows[..., :16], score_mod=others, scale=1 / TEMPERATURE, return_lse=True)
        found: Tensor = (sums.flatten() - (z * z.roll(len(z) // 2, 0)).sum(1) / TEMPERATURE).mean()
        return found

    return loss
