"""The loss by the kernel, in Triton's interpreter: a process of its own, as Triton reads TRITON_INTERPRET when it is
imported.
"""

import os
import subprocess
import sys
from pathlib import Path

import torch
from torch import Tensor

from simclr_dist.losses import nt_xent
from simclr_dist.losses.pair_kernel import KernelPairs


def loss_and_gradients(z_1: Tensor, z_2: Tensor, temperature: float, pairs: str) -> dict[str, Tensor]:
    """NT-Xent of one process: its loss, the gradient of both views' embeddings, and the metrics."""
    z = [tensor.clone().requires_grad_() for tensor in (z_1, z_2)]
    result = nt_xent(*z, temperature, pairs=pairs)  # type: ignore[arg-type]
    gradient = torch.cat(torch.autograd.grad(result.loss, z))
    metrics = torch.stack((result.top1, result.top5, result.positive_rank_mean))
    return {"loss": result.loss.detach(), "gradient": gradient, "metrics": metrics}


def of_processes(columns: Tensor, count: int, temperature: float) -> dict[str, Tensor]:
    """As :func:`loss_and_gradients`, by processes of ``count`` unit rows each that lie one behind the other.

    What they would gather is handed on here; the gradient is of the columns, in their order, averaged as DDP does.
    """
    processes = [KernelPairs(columns, first, count, temperature) for first in range(0, len(columns), count)]
    parts = torch.stack([pairs.sums().sum(1, keepdim=True) for pairs in processes])
    losses, shown = zip(*[pairs.loss(parts) for pairs in processes], strict=True)
    assert all(loss.equal(losses[0]) for loss in losses)
    norm, grad_loss = columns.new_ones(count), columns.new_ones(())
    gradients = [pairs.gradient(norm, grad_loss, len(processes)) for pairs in processes]
    return {"loss": losses[0], "gradient": torch.cat(gradients) / len(processes), "metrics": shown[0]}


def interpreted(
    losses: dict[str, tuple[Tensor, Tensor, float]], processes: tuple[Tensor, int, float], folder: Path
) -> dict[str, dict[str, Tensor]]:
    """By the interpreted kernel: :func:`loss_and_gradients` by name, and of "processes" :func:`of_processes`."""
    torch.save((losses, processes), folder / "cases.pt")
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    subprocess.run([sys.executable, "-m", __name__, folder], env=environment, check=True)
    found: dict[str, dict[str, Tensor]] = torch.load(folder / "found.pt")
    return found


def _answer(folder: Path) -> None:
    losses, processes = torch.load(folder / "cases.pt")
    found = {name: loss_and_gradients(*case, "kernel") for name, case in losses.items()}
    torch.save({**found, "processes": of_processes(*processes)}, folder / "found.pt")


if __name__ == "__main__":
    _answer(Path(sys.argv[1]))
