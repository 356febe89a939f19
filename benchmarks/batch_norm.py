"""What grouped batch norm costs: its forward and backward pass against nn.BatchNorm2d's, on one core.

    python benchmarks/batch_norm.py [--rounds 15] [--net resnet50] [--side 96] [--images 16]

First one layer, 32 x 256 x 28 x 28, in each layout and precision; then a whole network, the same with each norm. All
take the same tensors, in turn, in one process of one thread; printed are ratios of each one's least processor time,
which a machine's other work reaches through its caches alone. "two" are two groups, halves of the rows; "processes" is
a group of several (here of one: nothing is sent). Behind them nn.BatchNorm2d's time, and the larger error of mean and
variance, of nn.BatchNorm2d and of "two", against float64.
"""

import argparse
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from side_by_side import in_turn
from torch import Tensor, nn

from simclr_dist.models.batch_norm import GroupedBatchNorm
from simclr_dist.models.encoder import Encoder
from simclr_dist.models.statistics_group import StatisticsGroup

NORMS: dict[str, Callable[..., nn.Module]] = {
    "native": nn.BatchNorm2d,
    "one": GroupedBatchNorm,
    "two": partial(GroupedBatchNorm, statistics=StatisticsGroup(2)),
    "processes": partial(GroupedBatchNorm, statistics=StatisticsGroup(spans_processes=True)),
}
LAYOUTS = {"NCHW": torch.contiguous_format, "channels_last": torch.channels_last}


def there_and_back(module: nn.Module, x: Tensor, gradient: Tensor) -> None:
    """Forward and backward pass; gradients do not pile up."""
    x.grad = None
    module.zero_grad()
    module(x).backward(gradient)


def ratios(passes: Mapping[str, Callable[[], object]], rounds: int) -> str:
    """The best time of each as a multiple of the first one's, which stands behind them."""
    best = {name: min(seconds) for name, seconds in in_turn(passes, rounds, clock=time.process_time).items()}
    first = next(iter(best.values()))
    return "".join(f"{seconds / first:9.2f}x" for seconds in best.values()) + f"{1000 * first:7.0f} ms"


def layer(dtype: torch.dtype, layout: torch.memory_format, rounds: int) -> str:
    """The line of one kind of layer."""
    x, gradient = ((1 + 2 * torch.randn(32, 256, 28, 28)).to(dtype).contiguous(memory_format=layout) for _ in "xg")
    x.requires_grad_()
    norms = {name: make(256, momentum=1.0) for name, make in NORMS.items()}
    line = ratios({name: partial(there_and_back, norm, x, gradient) for name, norm in norms.items()}, rounds)
    exact = x.detach().double()
    error = [_error(norms[name], exact, groups) for name, groups in (("native", 1), ("two", 2))]
    return f"{line}  {error[0]:.1e}  {error[1]:.1e}"


def _error(norm: Any, exact: Tensor, groups: int) -> float:
    parts = [torch.var_mean(rows, (0, 2, 3)) for rows in exact.chunk(groups)]
    variance, mean = (torch.stack(values).mean(0) for values in zip(*parts, strict=True))
    errors = (norm.running_mean - mean).norm() / mean.norm(), (norm.running_var - variance).norm() / variance.norm()
    return max(float(error) for error in errors)


def network(name: str, images: int, side: int, layout: torch.memory_format, rounds: int) -> str:
    """The line of a whole network in float32."""
    pixels = torch.randint(0, 256, (images, 3, side, side), dtype=torch.uint8)
    passes = {}
    for label, norm in NORMS.items():
        torch.manual_seed(0)
        net = Encoder(name, norm_layer=norm).to(memory_format=layout)
        passes[label] = partial(_step, net, pixels)
    return ratios(passes, rounds)


def _step(net: nn.Module, pixels: Tensor) -> None:
    net.zero_grad()
    net(pixels).square().sum().backward()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--net", default="resnet50")
    parser.add_argument("--side", type=int, default=96)
    parser.add_argument("--images", type=int, default=16)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(f"{'':24}" + "".join(f"{name:>10}" for name in NORMS) + f"{'':10}  errors")
    for dtype in (torch.float32, torch.bfloat16):
        for name, layout in LAYOUTS.items():
            print(f"{str(dtype)[6:] + ' ' + name:24}" + layer(dtype, layout, options.rounds), flush=True)
    for name, layout in LAYOUTS.items():
        line = network(options.net, options.images, options.side, layout, options.rounds)
        print(f"{options.net + ' ' + name:24}" + line, flush=True)


if __name__ == "__main__":
    main()
