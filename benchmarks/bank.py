"""The losses of a memory bank and of MoCo's queue, forward and backward, in tiles beside one matrix: CPU seconds and
memory.

    python benchmarks/bank.py [--bank 1281167] [--queue 65536] [--images 256] [--noise 4096] [--rounds 3]

One thread, d = 128. In tiles the queue's loss also counts the negatives that are more similar than the key.

Every contender runs in a fresh process, one after the other; memory is the growth of the peak resident set over its
level with the bank made.
"""

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from side_by_side import peak_mb
from torch import Tensor
from torch.nn import functional as F

from simclr_dist.losses.bank import log_sum_exp, sampled_scores

D, TEMPERATURE = 128, 0.07
Loss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def whole_in_tiles(f: Tensor, bank: Tensor, own: Tensor, noise: Tensor) -> Tensor:
    positive = (f * bank[own]).sum(1) / TEMPERATURE
    total, _ = log_sum_exp(f, bank, TEMPERATURE, positive.detach(), own)
    return (total - positive).mean()


def whole_in_one(f: Tensor, bank: Tensor, own: Tensor, noise: Tensor) -> Tensor:
    return F.cross_entropy(f @ bank.T / TEMPERATURE, own)


def sampled_in_tiles(f: Tensor, bank: Tensor, own: Tensor, noise: Tensor) -> Tensor:
    return sampled_scores(f, bank, noise).div(TEMPERATURE).logsumexp(1).mean()


def sampled_in_one(f: Tensor, bank: Tensor, own: Tensor, noise: Tensor) -> Tensor:
    return torch.einsum("nkd,nd->nk", bank[noise], f).div(TEMPERATURE).logsumexp(1).mean()


def queue_in_tiles(f: Tensor, queue: Tensor, own: Tensor, noise: Tensor) -> Tensor:
    positive = (f * queue[own]).sum(1) / TEMPERATURE  # keys like those of the queue
    total, _ = log_sum_exp(f, queue, TEMPERATURE, positive.detach())
    return (torch.logaddexp(total, positive) - positive).mean()


def queue_in_one(f: Tensor, queue: Tensor, own: Tensor, noise: Tensor) -> Tensor:
    logits = torch.cat(((f * queue[own]).sum(1, keepdim=True), f @ queue.T), dim=1) / TEMPERATURE
    return F.cross_entropy(logits, torch.zeros_like(own))


CONTENDERS: dict[str, Loss] = {
    each.__name__: each
    for each in (whole_in_tiles, whole_in_one, sampled_in_tiles, sampled_in_one, queue_in_tiles, queue_in_one)
}


def measure(loss: Loss, rows: int, images: int, samples: int, rounds: int) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    bank = torch.empty(rows, D).uniform_(-1, 1).div_((D / 3) ** 0.5)
    f = F.normalize(torch.randn(images, D), dim=1).requires_grad_()
    own, noise = torch.randperm(rows)[:images], torch.randint(0, rows, (images, samples))
    few = torch.arange(2)
    loss(f[:2], bank[:64], few, few[:, None]).backward()  # what libraries take once is no contender's
    before, seconds = peak_mb(), []
    for _ in range(rounds):
        started = time.process_time()
        loss(f, bank, own, noise).backward()
        seconds.append(time.process_time() - started)
    print(f"{statistics.median(seconds):8.2f} CPU s  {peak_mb() - before:8.0f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bank", type=int, default=1281167)
    parser.add_argument("--queue", type=int, default=65536)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--noise", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", choices=CONTENDERS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        rows = options.queue if options.one.startswith("queue") else options.bank
        measure(CONTENDERS[options.one], rows, options.images, options.noise, options.rounds)
        return
    print(
        f"{options.images} images, bank of {options.bank} x {D}, {options.noise} noise samples, queue of "
        f"{options.queue} x {D}, one thread"
    )
    for name in CONTENDERS:
        print(f"{name:<18}", end="", flush=True)
        subprocess.run([sys.executable, __file__, "--one", name, *sys.argv[1:]], check=True)


if __name__ == "__main__":
    main()
