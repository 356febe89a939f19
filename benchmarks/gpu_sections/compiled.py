"""torch.compile (``machine.compile``) of the trainer and of bare torch, with torch's own CUDA graphs and without.

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
from simclr_dist.training.recorded import record_embedding

_GRAPHS = "reduce-overhead"
_PLAIN = 1e-3
"""How far float32's gradient may be from float64's: beyond it they are not of the same batch."""
_MODES = {"default": "compiled", _GRAPHS: "compiled, with torch's CUDA graphs"}


def rows(here: Here) -> Iterator[Row]:
    small = config_of(
        here.size("resnet18", "resnet10"), here.size(256, 8), here.size(32, 8), stem="small",
        width=here.size(1.0, 0.25), precision="bfloat16", channels_last=True,
    )  # fmt: skip
    large = config_for(here)
    bare = yield from measured("small images: bare torch", small, here, bare_step(small, here))
    yield from measured("small images: trainer", small, here, trainer_step(small, here), bare)
    contenders: dict[str, Callable[[], Iterator[Row]]] = {
        "the compiled step's gradient": lambda: _same_gradient(here),
        "bare torch, compiled": lambda: _bare(large, here, "default"),
        "trainer, compiled": lambda: _trainer(large, here),
        "trainer, compiled and recorded": lambda: _trainer(large, here, recorded=True),
        "small images: trainer, compiled": lambda: _trainer(small, here, bare),
        "bare torch, CUDA graphs": lambda: _bare(large, here, _GRAPHS),
    }
    for what, run in contenders.items():
        try:
            yield from run()
        except Exception as error:  # one contender's failure is one row
            yield failed(what, error)
        torch.compiler.reset()


def _trainer(config: Config, here: Here, bare: float | None = None, *, recorded: bool = False) -> Iterator[Row]:
    what = ("" if bare is None else "small images: ") + "trainer, compiled" + (" and recorded" if recorded else "")
    yield from measured(what, config, here, _compiled_step(config, here, recorded=recorded))


def _bare(config: Config, here: Here, mode: str) -> Iterator[Row]:
    yield from measured(f"bare torch, {_MODES[mode]}", config, here, bare_step(config, here, mode))


def _compiled_step(config: Config, here: Here, *, recorded: bool = False) -> Callable[[], Any]:
    """As the trainer's step with machine.compile; ``recorded``: as machine.cuda_graphs does it, too."""
    plain = Config(recipe=config.recipe, machine=replace(config.machine, cuda_graphs=False))
    step, batch = training_step(plain, here), random_batch(config.recipe, here)
    for part in step.method.children():
        part.compile(disable=not here.on_gpu)
    if recorded and here.on_gpu:
        images = config.recipe.global_batch_images
        step.recorded = record_embedding(step.method, config, step.statistics, images, chunks=False)
    return lambda: step(batch, 1)


def _same_gradient(here: Here) -> Iterator[Row]:
    """In float32: against that of float64, as the plain one is, and against itself."""
    config = config_of(
        "resnet10", here.size(128, 8), here.size(32, 8), stem="small", width=here.size(1.0, 0.25),
        deterministic=True, cuda_graphs=False,
    )  # fmt: skip

    def gradients(config: Config, times: int, **compile_: Any) -> list[torch.Tensor]:
        step, batch = training_step(config, here), random_batch(config.recipe, here).to(here.device)
        parts = list(step.method.children())
        for part in here.size(parts, parts[-1:]) if times > 1 else ():
            part.compile(**compile_)
        found = []
        for _ in range(times):
            step.optimizer.zero_grad()
            step.compute_gradients(batch)
            given = [each.grad for each in step.method.parameters() if each.grad is not None]
            found.append(torch.cat([each.double().flatten() for each in given]))
        return found

    exact, *_ = gradients(Config(recipe=config.recipe, machine=replace(config.machine, precision="float64")), 1)
    plain, *_ = gradients(config, 1)
    once, twice = gradients(config, 2, **here.size({}, {"backend": "aot_eager"}))
    apart, own = (float((each - exact).norm() / exact.norm()) for each in (once, plain))
    same = torch.equal(once, twice)
    figure = f"apart from float64's by {apart:.1e}, the plain one by {own:.1e}; twice the same bits: {same}"
    numbers = {"apart": apart, "plain": own, "same_bits": same}
    holds = own < _PLAIN and apart < max(1e-4, 3 * own) and same
    yield Row("the compiled step's gradient, float32", figure, numbers, "1e-4 or 3 of the plain's, same bits", holds)
