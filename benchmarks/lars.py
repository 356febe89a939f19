"""This project's LARS against a loop over tensors as in moco-v3's LARS, and against torch_optimizer's for orientation.

    python benchmarks/lars.py [--rounds 30]

All update copies of the same tensors, in turn, in one process, without a forward or backward pass: ResNet-50's 161
parameters, then 161 tiny ones. Biases and batch norm are out of decay and adaptation. Printed: the median over rounds
of the ratio of times (below 1: faster than the loop). Absolute times are shown for orientation only.
"""

import argparse
import statistics
from collections.abc import Callable
from typing import Any

import torch
from side_by_side import in_turn, ratio
from torch.nn import Parameter
from torchvision.models import resnet50

from simclr_dist.optim import LARS

LR, MOMENTUM, DECAY, COEFFICIENT = 0.1, 0.9, 1e-4, 0.001


class LoopLARS(torch.optim.Optimizer):
    """Tensor by tensor as in moco-v3: the learning rate outside the momentum buffer."""

    def __init__(self, params: list[Parameter]) -> None:
        super().__init__(params, {"lr": LR, "momentum": MOMENTUM, "weight_decay": DECAY, "coefficient": COEFFICIENT})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]  # no closure is given here
        for group in self.param_groups:
            for p in group["params"]:
                dp = p.grad
                if p.ndim > 1:
                    dp = dp.add(p, alpha=group["weight_decay"])
                    param_norm, update_norm = torch.norm(p), torch.norm(dp)
                    one = torch.ones_like(param_norm)
                    ratio = group["coefficient"] * param_norm / update_norm
                    q = torch.where(param_norm > 0.0, torch.where(update_norm > 0, ratio, one), one)
                    dp = dp.mul(q)
                state = self.state[p]
                if "mu" not in state:
                    state["mu"] = torch.zeros_like(p)
                mu = state["mu"]
                mu.mul_(group["momentum"]).add_(dp)
                p.add_(mu, alpha=-group["lr"])


def parameters_like(shapes: list[torch.Size]) -> list[Parameter]:
    generator = torch.Generator().manual_seed(0)
    parameters = []
    for shape in shapes:
        parameter = Parameter(0.05 * torch.randn(shape, generator=generator))
        parameter.grad = 1e-3 * torch.randn(shape, generator=generator)
        parameters.append(parameter)
    return parameters


def ours(parameters: list[Parameter], classic_momentum: bool) -> LARS:
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.ndim > 1]},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0, "adapt": False},
    ]
    return LARS(
        groups,
        lr=LR,
        momentum=MOMENTUM,
        weight_decay=DECAY,
        trust_coefficient=COEFFICIENT,
        classic_momentum=classic_momentum,
    )


def torch_optimizers(parameters: list[Parameter]) -> torch.optim.Optimizer:
    import torch_optimizer

    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.ndim > 1]},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},  # which also turns adaptation off
    ]
    return torch_optimizer.LARS(
        groups, lr=LR, momentum=MOMENTUM, weight_decay=DECAY, trust_coefficient=COEFFICIENT, eps=0.0
    )


def compare(title: str, shapes: list[torch.Size], rounds: int, steps: int) -> None:
    optimizers = {
        "moco-v3's loop": LoopLARS(parameters_like(shapes)),
        "ours, classic": ours(parameters_like(shapes), classic_momentum=True),
        "ours, rate outside": ours(parameters_like(shapes), classic_momentum=False),
        "torch_optimizer": torch_optimizers(parameters_like(shapes)),
    }

    def taking(optimizer: torch.optim.Optimizer) -> Callable[[], None]:
        def take() -> None:
            for _ in range(steps):
                optimizer.step()

        return take

    times = in_turn({name: taking(optimizer) for name, optimizer in optimizers.items()}, rounds, warm_up=3)
    milliseconds = {name: 1000 * statistics.median(each) / steps for name, each in times.items()}
    count = sum(shape.numel() for shape in shapes)
    print(f"{title}: {len(shapes)} tensors, {sum(len(s) > 1 for s in shapes)} adapted, {count:,} elements")
    loop, *others = optimizers
    print(f"  {loop}: {milliseconds[loop]:.2f} ms")
    for name in others:
        print(f"  {name} / loop: {ratio(times[name], times[loop])}; {milliseconds[name]:.2f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"{options.threads} thread(s), {options.rounds} rounds")
    compare("ResNet-50", [parameter.shape for parameter in resnet50().parameters()], options.rounds, steps=1)
    tiny = [torch.Size((2, 4)) if number % 4 else torch.Size((8,)) for number in range(161)]
    compare("tiny", tiny, options.rounds, steps=20)


if __name__ == "__main__":
    main()
