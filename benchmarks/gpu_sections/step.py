"""ResNet-50 at 224 pixels in bfloat16, channels_last: the trainer's step against the same network in bare torch."""

import gc
from collections.abc import Callable, Generator, Iterator

import torch
from torch import nn

from gpu_sections.here import Here, Row, config_of, random_batch, training_step
from simclr_dist.config import Config
from simclr_dist.methods.base import Method
from simclr_dist.methods.build import build_method
from simclr_dist.models.batch_norm import GroupedBatchNorm
from simclr_dist.models.kernels import set_kernels
from simclr_dist.optim import make_optimizer

_ATLEAST, _HOPED = 3000, 4500
_OF_BARE = 0.98


def rows(here: Here) -> Iterator[Row]:
    config = config_for(here)
    bare = yield from measured("bare torch, nn.BatchNorm2d", config, here, bare_step(config, here))
    for groups, name in ((1, "one group"), (8, "8 groups")):
        config = config_for(here, groups)
        yield from measured(f"trainer, {name}", config, here, trainer_step(config, here), bare)
        config = config_for(here, groups, cuda_graphs=False)
        yield from measured(f"trainer, {name}, cuda_graphs=false", config, here, trainer_step(config, here), bare)


def config_for(here: Here, groups: int = 1, **machine: object) -> Config:
    """ResNet-50 with one or several groups, as all sections that time it take it."""
    name, images, side = here.size(("resnet50", 128, 224), ("resnet10", 16, 16))
    group = images // groups if groups > 1 else 0
    return config_of(
        name, images, side, group=group, stem=here.size("imagenet", "small"), width=here.size(1.0, 0.25),
        **{"precision": "bfloat16", "channels_last": True, "deterministic": False, **machine},
    )  # fmt: skip


def measured(
    what: str, config: Config, here: Here, step: Callable[[], object], bare: float | None = None, rounds: int = 10
) -> Generator[Row, None, float]:
    """The row of a step; returns its views a second. ``bare``: those of bare torch, with which it is compared."""
    seconds = here.seconds(step, rounds)
    tensors, reserved = here.peak_bytes(step)
    views = 2 * config.recipe.global_batch_images / seconds
    busy = here.busy_seconds(step)
    figure = (
        f"{views:,.0f} views/s, {1e3 * seconds:.1f} ms, of them {1e3 * busy:.1f} in kernels, "
        f"peak {tensors / 1e9:.1f} GB ({reserved / 1e9:.1f} reserved)"
    )
    numbers = {
        "views_per_second": views, "seconds": seconds, "busy_seconds": busy, "peak_bytes": tensors,
        "reserved_bytes": reserved,
    }  # fmt: skip
    if bare is None:
        yield Row(what, figure, numbers)
    else:
        share = views / bare
        numbers["of_bare"] = share
        good = share >= _OF_BARE and views >= _ATLEAST
        wanted = f"{_OF_BARE} of bare torch, {_ATLEAST:,} views/s (better {_HOPED:,}) on an H100"
        holds = here.bound(good)
        if not config.machine.cuda_graphs:  # not as it is shipped
            wanted, holds = "", None
        yield Row(what, f"{figure}, {share:.3f} of bare torch", numbers, wanted, holds)
    del step
    gc.collect()
    if here.on_gpu:
        torch.cuda.empty_cache()
    return views


def trainer_step(config: Config, here: Here) -> Callable[[], object]:
    """The whole step of the trainer: gradients, checks, metrics, update."""
    step, batch = training_step(config, here), random_batch(config.recipe, here)
    # Beyond the first step, whose rate is 0.
    return lambda: step(batch, 1)


def bare_step(config: Config, here: Here, compile_mode: str | None = None) -> Callable[[], object]:
    """Forward pass, loss, backward pass and optimizer of the same network with torch's own batch norm, as a script
    would have them. ``compile_mode``: of torch.compile; None: not compiled."""
    recipe = config.recipe
    set_kernels(deterministic=config.machine.deterministic, precision=config.machine.precision)
    method = with_torchs_norms(build_method(recipe, recipe.global_batch_images)).to(here.device)
    method.to(memory_format=torch.channels_last)
    optimizer = make_optimizer(method, recipe.optimizer)
    for group in optimizer.param_groups:
        group["lr"] = 0.01
    batch = random_batch(recipe, here)
    embed = method.embed
    if compile_mode:
        embed = torch.compile(embed, mode=compile_mode, disable=not here.on_gpu)

    def step() -> None:
        own = batch.to(here.device)
        with torch.autocast(here.device.type, torch.bfloat16):
            embeddings = embed(own)
        method.loss({name: each.float() for name, each in embeddings.items()}, {}, own)["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def with_torchs_norms(method: Method) -> Method:
    """Every batch norm as ``nn.BatchNorm2d`` (in heads ``nn.BatchNorm1d``) with the same weights."""
    for name, module in list(method.named_modules()):
        for child, own in list(module.named_children()):
            if isinstance(own, GroupedBatchNorm):
                of_rows = "projection" in f"{name}.{child}"
                norm = (nn.BatchNorm1d if of_rows else nn.BatchNorm2d)(own.num_features, own.eps, own.momentum)
                norm.weight, norm.bias = own.weight, own.bias
                setattr(module, child, norm)
    return method
