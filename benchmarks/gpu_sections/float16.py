"""float16 with gradient scaling: what float32 computes, and an overflow that leaves the weights alone."""

from collections.abc import Iterator

import torch
from torch import Tensor

from gpu_sections.here import Here, Row, config_of, random_batch, training_step
from simclr_dist.training.step import TrainingStep


def rows(here: Here) -> Iterator[Row]:
    steps = here.size(10, 2)
    step, losses = _run(here, "float16", steps)
    _, exact = _run(here, "float32", steps)
    apart = max(abs(a / b - 1) for a, b in zip(losses, exact, strict=True))
    figure = f"losses of {steps} steps apart from float32's by {apart:.1e}, scale {step.scaler.get_scale():g}"
    yield Row("float16", figure, {"largest_difference": apart}, "1e-2", here.bound(apart < 1e-2))
    before = _weights(step)
    step.scaler.update(2.0**60)
    values = step(random_batch(step.config.recipe, here), steps)
    kept = all(torch.equal(a, b) for a, b in zip(before, _weights(step), strict=True))
    halved = step.scaler.get_scale() == 2.0**59
    figure = f"gradient norm {values['gradient_norm']}; weights {'kept' if kept else 'MOVED'}, scale halved: {halved}"
    yield Row("an overflow", figure, {"kept": kept, "halved": halved}, "weights kept, scale halved", kept and halved)


def _run(here: Here, precision: str, steps: int) -> tuple[TrainingStep, list[float]]:
    config = config_of(
        here.size("resnet18", "resnet10"), here.size(256, 16), here.size(32, 8), stem="small",
        width=here.size(1.0, 0.25), precision=precision, channels_last=True,
    )  # fmt: skip
    torch.manual_seed(0)
    step, batch = training_step(config, here), random_batch(config.recipe, here)
    return step, [step(batch, number)["loss"] for number in range(steps)]


def _weights(step: TrainingStep) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in step.method.parameters()]
