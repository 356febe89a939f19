"""LARS against a loop as moco-v3's, and against torch's SGD, which adapts nothing."""

from collections.abc import Iterator

import torch
from lars import LoopLARS, ours, parameters_like
from torch.nn import Parameter
from torchvision.models import resnet50

from gpu_sections.here import Here, Row

_OF_LOOP = 0.5


def rows(here: Here) -> Iterator[Row]:
    with torch.device("meta"):
        shapes = [parameter.shape for parameter in resnet50().parameters()]
    shapes = here.size(shapes, [torch.Size((8, 4)), torch.Size((8,))] * 4)

    def parameters() -> list[Parameter]:
        moved = []
        for each in parameters_like(shapes):
            moved.append(Parameter(each.detach().to(here.device)))
            moved[-1].grad = each.grad.to(here.device) if each.grad is not None else None
        return moved

    optimizers: dict[str, torch.optim.Optimizer] = {
        "moco-v3's loop": LoopLARS(parameters()),
        "LARS": ours(parameters(), classic_momentum=True),
        "LARS, rate outside the momentum": ours(parameters(), classic_momentum=False),
        "torch's SGD, foreach": torch.optim.SGD(parameters(), lr=0.1, momentum=0.9, foreach=True),
        "torch's SGD, fused": torch.optim.SGD(parameters(), lr=0.1, momentum=0.9, fused=True),
    }
    seconds = {name: here.seconds(optimizer.step, rounds=20) for name, optimizer in optimizers.items()}
    for name, each in seconds.items():
        share = each / seconds["moco-v3's loop"]
        figure = f"{1e3 * each:.2f} ms, {share:.2f} of the loop's time"
        bound = (f"{_OF_LOOP} of the loop's time", here.bound(share <= _OF_LOOP)) if name == "LARS" else ("", None)
        yield Row(name, figure, {"seconds": each, "of_loop": share}, *bound)
