"""NT-Xent, forward and backward, beside lightly's, a lean cross-entropy, and the bare products of its own tiles.

    pip install .[bench]
    python benchmarks/loss.py [--rows 8192 32768] [--rounds 5]      one process, one thread, d = 128
    python benchmarks/loss.py --processes 4 [--images 4096]         gloo: CPU seconds and bytes sent a rank

Every contender runs in a fresh process (memory: growth of the peak resident set over its level before the first call).
Rounds are taken in turn over the contenders, and ratios are of medians of one run.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

import torch
import torch.distributed as dist
from loss_contenders import CONTENDERS, DISTRIBUTED, TEMPERATURE
from side_by_side import peak_mb
from torch import Tensor, multiprocessing

D = 128


def seconds_of(loss: Callable[[Tensor, Tensor], Tensor], images: int) -> float:
    """CPU seconds of a forward and backward pass."""
    generator = torch.Generator().manual_seed(dist.get_rank() if dist.is_initialized() else 0)
    z = [torch.randn(images, D, generator=generator, requires_grad=True) for _ in range(2)]
    started = time.process_time()
    loss(*z).backward()
    return time.process_time() - started


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
    own_mb = found["ours"][-1]["mb"] or float("nan")  # with few rows it grows by nothing
    print(f"\n{rows} rows, d = {D}, T = {TEMPERATURE}, one thread, forward and backward, median of {rounds}")
    for name, lines in found.items():
        seconds, mb = statistics.median(line["seconds"] for line in lines), lines[-1]["mb"]
        times = f"{seconds:8.3f} CPU s  {seconds / own:6.2f}x the time"
        print(f"{name:<16}{times}  {mb:8.0f} MB  {mb / own_mb:6.1f}x the memory")


def distributed_rank(rank: int, count: int, images: int, rounds: int, folder: str, names: list[str]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=count)
    losses = {name: DISTRIBUTED[name]() for name in names}
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
        for name, value in zip(names, mine, strict=True):
            print(f"{name:<25}{value / count:7.3f} CPU s  {value / own:5.2f}x   {sent[name] / 2**20:6.1f} MiB")
    dist.barrier()
    dist.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[2048, 8192])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", help="these beside ours; default: all")
    parser.add_argument("--processes", type=int)
    parser.add_argument("--images", type=int, default=4096)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    options = parser.parse_args()
    known = DISTRIBUTED if options.processes else CONTENDERS
    names = ["ours", *(name for name in options.only or known if name != "ours")]
    if unknown := [name for name in names if name not in known]:
        parser.error(f"--only: {unknown[0]} is not one of {', '.join(known)}")
    if options.serve:
        serve(options.serve, options.rows[0])
    elif options.processes:
        with tempfile.TemporaryDirectory() as folder:
            arguments = (options.processes, options.images, options.rounds, folder, names)
            multiprocessing.spawn(  # type: ignore[attr-defined]  # public, and not in its __all__
                distributed_rank, arguments, nprocs=options.processes
            )
    else:
        for rows in options.rows:
            one_process(rows, options.rounds, names)


if __name__ == "__main__":
    main()
