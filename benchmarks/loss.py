"""NT-Xent, forward and backward, beside lightly's, a lean cross-entropy, and the bare products of its own tiles.

    pip install .[bench]
    python benchmarks/loss.py [--rows 8192 32768] [--rounds 5]      one process, one thread, d = 128
    python benchmarks/loss.py --processes 4 [--images 4096]         gloo: CPU seconds and bytes sent a rank

Every contender runs in a fresh process (memory: growth of the peak resident set over its level before the first call).
Rounds are taken in turn over the contenders, and ratios are of medians of one run.
"""

import argparse
import json
import math
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

import torch
import torch.distributed as dist
import torch.multiprocessing
from torch import Tensor
from torch.nn import functional as F

D, TEMPERATURE = 128, 0.1


def ours() -> Callable[[Tensor, Tensor], Tensor]:
    from simclr_dist.losses import NTXentLoss

    return NTXentLoss(TEMPERATURE)


def lightly() -> Callable[[Tensor, Tensor], Tensor]:
    from lightly.loss import NTXentLoss

    return NTXentLoss(TEMPERATURE, gather_distributed=dist.is_initialized())  # type: ignore[no-any-return]


def cross_entropy() -> Callable[[Tensor, Tensor], Tensor]:
    """The leanest plain form: one matrix, its diagonal masked in place."""

    def loss(z_1: Tensor, z_2: Tensor) -> Tensor:
        z = F.normalize(torch.cat((z_1, z_2)), dim=1)
        similarity = (z @ z.T).div_(TEMPERATURE)
        similarity.fill_diagonal_(-math.inf)
        return F.cross_entropy(similarity, torch.arange(len(z)).roll(len(z) // 2))

    return loss


def torchs_autograd_gather() -> Callable[[Tensor, Tensor], Tensor]:
    """torch.distributed.nn's all_gather, as most projects use it, then this project's tiles on the local rows."""
    from torch.distributed.nn.functional import all_gather

    return autograd_gather(lambda rows: torch.cat(all_gather(rows)))


def autograd_gather(gather: Callable[[Tensor], Tensor] | None = None) -> Callable[[Tensor, Tensor], Tensor]:
    """A leaner all_gather with a gradient (one all_reduce backward), then the same tiles."""
    from simclr_dist.losses.tiles import Pairs

    class AllPairs(Pairs):
        """No tile serves its mirror image: whose gradient reaches the columns has no use for that."""

        def _tiles(self):  # type: ignore[no-untyped-def]
            buffer = self.rows.new_empty(self.tile * self.tile)
            for top in range(0, len(self.rows), self.tile):
                i = slice(top, min(top + self.tile, len(self.rows)))
                for left in range(0, len(self.columns), self.tile):
                    j = slice(left, min(left + self.tile, len(self.columns)))
                    yield i, j, self._pairs(i, j, buffer)

        def _mirror(self, i, j):  # type: ignore[no-untyped-def]
            return None

    class Gather(torch.autograd.Function):
        @staticmethod
        def forward(ctx, rows):  # type: ignore[no-untyped-def]
            everyone = rows.new_empty(dist.get_world_size() * rows.numel())
            dist.all_gather_single(everyone, rows.view(-1))
            return everyone.view(-1, rows.shape[1])

        @staticmethod
        def backward(ctx, gradient):  # type: ignore[no-untyped-def]
            dist.all_reduce(gradient)
            return gradient.chunk(dist.get_world_size())[dist.get_rank()]

    class LocalRows(torch.autograd.Function):
        """Mean loss of the local rows, with the gradients of rows and columns, over tiles."""

        @staticmethod
        def forward(ctx, rows, columns):  # type: ignore[no-untyped-def]
            ctx.pairs = AllPairs(columns, dist.get_rank() * len(rows), len(rows), TEMPERATURE)
            ctx.sums = ctx.pairs.forward()
            return torch.log1p(ctx.sums.negatives / ctx.sums.positives).mean()

        @staticmethod
        def backward(ctx, grad):  # type: ignore[no-untyped-def]
            pairs, sums = ctx.pairs, ctx.sums
            weight = 1 / (sums.negatives + sums.positives)
            missed = -sums.negatives * weight
            of_rows, of_columns = torch.zeros_like(pairs.rows), torch.zeros_like(pairs.columns)
            for i, j, tile in pairs._tiles():
                tile.mul_(weight[i, None])
                for diagonal, rows in pairs._partners(tile, i, j):
                    diagonal.copy_(missed[rows])
                of_rows[i].addmm_(tile, pairs.columns[j])
                of_columns[j].addmm_(tile.T, pairs.rows[i])
            factor = grad / (TEMPERATURE * len(pairs.rows))
            return of_rows * factor, of_columns * factor

    def loss(z_1: Tensor, z_2: Tensor) -> Tensor:
        rows = F.normalize(torch.cat((z_1, z_2)), dim=1)
        return LocalRows.apply(rows, gather(rows) if gather else Gather.apply(rows))  # type: ignore[no-any-return]

    return loss


def autograd_tiles() -> Callable[[Tensor, Tensor], Tensor]:
    """torch.distributed.nn's all_gather and tiles of the same size written in plain torch: autograd differentiates
    them, each computed again in the backward pass so that no more memory is held than by ours.
    """
    from torch.distributed.nn.functional import all_gather
    from torch.utils.checkpoint import checkpoint

    from simclr_dist.losses import tiles

    def negatives(rows: Tensor, columns: Tensor, excluded: Tensor) -> Tensor:
        similarity = (rows @ columns.T - 1) / TEMPERATURE
        return similarity.masked_fill(excluded, -math.inf).exp().sum(1)

    def loss(z_1: Tensor, z_2: Tensor) -> Tensor:
        rows, tile = F.normalize(torch.cat((z_1, z_2)), dim=1), tiles._CPU_TILE
        columns = torch.cat(all_gather(rows))
        own = torch.arange(len(rows)) + dist.get_rank() * len(rows)
        everyone = torch.arange(len(columns))
        positives = ((rows * rows.roll(len(rows) // 2, 0)).sum(1) - 1) / TEMPERATURE
        parts = [
            sum(
                checkpoint(negatives, mine, theirs, number[:, None] == other, use_reentrant=False)
                for theirs, other in zip(columns.split(tile), everyone.split(tile), strict=True)
            )
            for mine, number in zip(rows.split(tile), own.split(tile), strict=True)
        ]
        return (torch.cat(parts).log() - positives).mean()

    return loss


def tile_products() -> Callable[[Tensor, Tensor], Tensor]:
    """The matrix products that the tiles of ours need, and nothing else (a loss without a meaning)."""
    from simclr_dist.losses import tiles

    tile = tiles._CPU_TILE

    def products(z_1: Tensor, z_2: Tensor) -> Tensor:
        z, whole = torch.cat((z_1, z_2)).detach(), torch.empty(tile * tile)
        gradient = torch.zeros_like(z)
        for top in range(0, len(z), tile):
            for left in range(top, len(z), tile):
                i, j = slice(top, min(top + tile, len(z))), slice(left, min(left + tile, len(z)))
                buffer = whole[: (i.stop - top) * (j.stop - left)].view(i.stop - top, j.stop - left)
                torch.mm(z[i], z[j].T, out=buffer)
                torch.mm(z[i], z[j].T, out=buffer)
                gradient[i].addmm_(buffer, z[j])
                if i != j:
                    gradient[j].addmm_(buffer.T, z[i])
        return gradient.sum() + 0 * z_1.sum()

    return products


CONTENDERS = {"ours": ours, "lightly": lightly, "cross-entropy": cross_entropy, "tile products": tile_products}
DISTRIBUTED = {
    "ours": ours,
    "lean autograd gather": autograd_gather,
    "torch's autograd gather": torchs_autograd_gather,
    "autograd gather, tiles": autograd_tiles,
    "lightly": lightly,
}


def seconds_of(loss: Callable[[Tensor, Tensor], Tensor], images: int) -> float:
    """CPU seconds of a forward and backward pass."""
    generator = torch.Generator().manual_seed(dist.get_rank() if dist.is_initialized() else 0)
    z = [torch.randn(images, D, generator=generator, requires_grad=True) for _ in range(2)]
    started = time.process_time()
    loss(*z).backward()
    return time.process_time() - started


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def serve(name: str, rows: int) -> None:
    """A contender's process: each line on standard input asks for one timed step."""
    torch.set_num_threads(1)
    loss = CONTENDERS[name]()
    seconds_of(loss, 512)
    before = peak_mb()
    for _ in sys.stdin:
        print(json.dumps({"seconds": seconds_of(loss, rows // 2), "mb": peak_mb() - before}), flush=True)


def one_process(rows: int, rounds: int, names: list[str]) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    served = {
        name: subprocess.Popen(
            [sys.executable, __file__, "--serve", name, "--rows", str(rows)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        )
        for name in names
    }  # fmt: skip
    found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for _ in range(rounds):
        for name, process in served.items():
            assert process.stdin
            assert process.stdout
            print(file=process.stdin, flush=True)
            found[name].append(json.loads(process.stdout.readline()))
    for process in served.values():
        process.communicate()
    own = statistics.median(line["seconds"] for line in found["ours"])
    own_mb = found["ours"][-1]["mb"]
    print(f"\n{rows} rows, d = {D}, T = {TEMPERATURE}, one thread, forward and backward, median of {rounds}")
    for name, lines in found.items():
        seconds, mb = statistics.median(line["seconds"] for line in lines), lines[-1]["mb"]
        times = f"{seconds:8.3f} CPU s  {seconds / own:6.2f}x the time"
        print(f"{name:<16}{times}  {mb:8.0f} MB  {mb / own_mb:6.1f}x the memory")


def distributed_rank(rank: int, count: int, images: int, rounds: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=count)
    losses = {name: make() for name, make in DISTRIBUTED.items()}
    seconds: dict[str, list[float]] = {name: [] for name in losses}
    for number in range(rounds + 1):
        for name, loss in losses.items():
            dist.barrier()
            spent = seconds_of(loss, images // count)
            if number:
                seconds[name].append(spent)
    mine = torch.tensor([statistics.median(values) for values in seconds.values()])
    dist.all_reduce(mine)
    if rank == 0:
        local, row = 2 * images // count, D * 4
        others = count - 1
        sent = {
            # ring all_gather: each rank's slot passes count - 1 times; ring all_reduce of the whole: 2 (count-1)/count.
            "ours": others * local * (row + 3 * 4),
            "lean autograd gather": others * local * row + 2 * others * local * row,
            "torch's autograd gather": others * local * row + 2 * others * local * row,
            "autograd gather, tiles": others * local * row + 2 * others * local * row,
            "lightly": others * local * row + 2 * others * local * row,
        }
        own = mine[0]
        print(f"\n{count} gloo processes, B = {images}, d = {D}: CPU seconds a rank, bytes sent a rank (ring)")
        for (name, volume), value in zip(sent.items(), mine, strict=True):
            print(f"{name:<25}{value / count:7.3f} CPU s  {value / own:5.2f}x   {volume / 2**20:6.1f} MiB")
    dist.barrier()
    dist.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[2048, 8192])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", default=list(CONTENDERS))
    parser.add_argument("--processes", type=int)
    parser.add_argument("--images", type=int, default=4096)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve, options.rows[0])
    elif options.processes:
        with tempfile.TemporaryDirectory() as folder:
            arguments = (options.processes, options.images, options.rounds, folder)
            torch.multiprocessing.spawn(distributed_rank, arguments, nprocs=options.processes)
    else:
        for rows in options.rows:
            one_process(rows, options.rounds, options.only)


if __name__ == "__main__":
    main()
