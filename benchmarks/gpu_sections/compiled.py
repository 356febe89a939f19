"""torch.compile (``machine.compile``), and CUDA graphs, which are measured here and used nowhere.

In the rehearsal the head alone is traced, for its gradient, and run by torch's own kernels; nothing else is compiled,
which would take minutes.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch

from gpu_sections.here import Here, Row, config_of, failed, random_batch, training_step
from gpu_sections.step import bare_step, config_for, measured, trainer_step
from simclr_dist.config import Config

_GRAPHS = "reduce-overhead"
_MODES = {"default": "compiled", _GRAPHS: "CUDA graphs"}


def rows(here: Here) -> Iterator[Row]:
    small = config_of(
        here.size("resnet18", "resnet10"), here.size(256, 8), here.size(32, 8), stem="small",
        width=here.size(1.0, 0.25), precision="bfloat16", channels_last=True,
    )  # fmt: skip
    large = config_for(here)
    bare = yield from measured("small images: bare torch", small, here, bare_step(small, here))
    yield from measured("small images: trainer", small, here, trainer_step(small, here), bare)
    contenders: dict[str, Callable[[], Iterator[Row]]] = {
        "the compiled step's gradient": lambda: _same_gradient(small, here),
        "trainer, compiled": lambda: _trainer(large, here, "default", None),
        "small images: trainer, CUDA graphs": lambda: _trainer(small, here, _GRAPHS, bare),
        "bare torch, compiled": lambda: _bare(large, here, "default"),
        "small images: trainer, compiled": lambda: _trainer(small, here, "default", bare),
        "bare torch, CUDA graphs": lambda: _bare(large, here, _GRAPHS),
    }
    for what, run in contenders.items():
        try:
            yield from run()
        except Exception as error:  # one contender's failure is one row
            yield failed(what, error)
        torch.compiler.reset()


def _trainer(config: Config, here: Here, mode: str, bare: float | None) -> Iterator[Row]:
    size = "" if bare is None else "small images: "
    yield from measured(f"{size}trainer, {_MODES[mode]}", config, here, _compiled_step(config, here, mode), bare)


def _bare(config: Config, here: Here, mode: str) -> Iterator[Row]:
    yield from measured(f"bare torch, {_MODES[mode]}", config, here, bare_step(config, here, mode))


def _compiled_step(config: Config, here: Here, mode: str) -> Callable[[], Any]:
    """As the trainer's step with machine.compile, in a mode of torch.compile."""
    config = Config(recipe=config.recipe, machine=replace(config.machine, cuda_graphs=False))
    step, batch = training_step(config, here), random_batch(config.recipe, here)
    for part in step.method.children():
        part.compile(mode=mode, disable=not here.on_gpu)
    return lambda: step(batch, 1)


def _same_gradient(config: Config, here: Here) -> Iterator[Row]:
    """In float32: against the same step that is not compiled, and against itself."""
    machine = replace(config.machine, precision="float32", deterministic=True, cuda_graphs=False)
    config = Config(recipe=config.recipe, machine=machine)
    step, batch = training_step(config, here), random_batch(config.recipe, here).to(here.device)

    def gradient() -> torch.Tensor:
        step.optimizer.zero_grad()
        step.compute_gradients(batch)
        return torch.cat([each.grad.flatten() for each in step.method.parameters() if each.grad is not None]).clone()

    plain = gradient()
    parts = list(step.method.children())
    for part in here.size(parts, parts[-1:]):
        part.compile(**here.size({}, {"backend": "aot_eager"}))
    once, twice = gradient(), gradient()
    apart, same = float((once - plain).norm() / plain.norm()), torch.equal(once, twice)
    figure = f"apart from the plain one by {apart:.1e} (float32); twice the same bits: {same}"
    yield Row(
        "the compiled step's gradient",
        figure,
        {"apart": apart, "same_bits": same},
        "1e-4, the same bits",
        apart < 1e-4 and same,
    )
