"""What ``simclr-dist plan`` predicts of a step, against the step: memory, and time at the card's rate."""

import gc
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch

from gpu_sections.here import Here, Row, config_of, failed
from gpu_sections.step import trainer_step
from simclr_dist.config import Config
from simclr_dist.planning.cards import FLOPS_A_VIEW, card_named, rate_of
from simclr_dist.planning.traced_step import StepTrace, traced_step

_WITHIN = 0.10


def rows(here: Here) -> Iterator[Row]:
    for name, config in _configs(here).items():
        # What a recording keeps is no tensor of torch's count: that of the same step without one is held against.
        plain = Config(recipe=config.recipe, machine=replace(config.machine, cuda_graphs=False))
        row = _memory(name, here, _predicted(plain), step := trainer_step(plain, here))
        yield row
        if row.holds is False:
            yield _in_less(f"{name}, the same step in less", here, _predicted(plain), step)
        del step
        predicted, step = _predicted(config), trainer_step(config, here)
        yield _memory(f"{name}, recorded", here, predicted, step, recorded=True)
        yield _rate(f"{name}, its rate", here, predicted, config.machine.precision, here.seconds(step))
        del step
        gc.collect()


def _predicted(config: Config) -> StepTrace:
    images = config.recipe.global_batch_images
    machine = replace(config.machine, device="cuda")
    return traced_step(config.recipe, machine, images, 1, images)


def _memory(name: str, here: Here, predicted: StepTrace, step: Callable[[], object], *, recorded: bool = False) -> Row:
    """``recorded``: against what is reserved, which has the gaps between tensors, too; so there is no bound."""
    step()  # makes the optimizer's state
    tensors, reserved = here.peak_bytes(step)
    found = reserved if recorded else tensors
    ratio = predicted.peak_bytes / found if found else float("nan")
    figure = f"predicted {predicted.peak_bytes / 1e9:.2f} GB, " + (
        f"reserved {reserved / 1e9:.2f}"
        if recorded
        else f"measured {tensors / 1e9:.2f} ({reserved / 1e9:.2f} reserved)"
    )
    numbers = {"predicted_bytes": predicted.peak_bytes, "peak_bytes": tensors, "reserved_bytes": reserved}
    if recorded:
        return Row(name, f"{figure}: {ratio:.3f}", numbers)
    holds = here.bound(abs(ratio - 1) <= _WITHIN)
    return Row(name, f"{figure}: {ratio:.3f}", numbers, f"within {_WITHIN:.0%}", holds)


def _in_less(name: str, here: Here, predicted: StepTrace, step: Callable[[], object]) -> Row:
    """Whether the memory that was predicted is enough, where a step takes more: for a convolution cuDNN may choose an
    algorithm with a large workspace, and torch takes the next one where there is no room for it."""
    allowed, whole = (1 + _WITHIN) * predicted.peak_bytes, torch.cuda.get_device_properties(0).total_memory
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(allowed / whole)
    try:
        step()
        tensors, reserved = here.peak_bytes(step)
    except torch.OutOfMemoryError as error:
        return failed(name, error)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    figure = f"{tensors / 1e9:.2f} GB, {reserved / 1e9:.2f} reserved of {allowed / 1e9:.2f} allowed"
    return Row(name, figure, {"peak_bytes": tensors, "allowed_bytes": allowed}, "it runs", holds=True)


def _rate(name: str, here: Here, predicted: StepTrace, precision: str, seconds: float) -> Row:
    reached = predicted.flops / seconds
    views = reached / FLOPS_A_VIEW
    figure = f"{1e3 * seconds:.1f} ms, {reached / 1e12:.1f} TFLOP/s: {views:,.0f} views/s of ResNet-50"
    card = _card(here)
    if card and (rate := rate_of(card, precision)):
        figure += f"; predicted {1e3 * predicted.flops / rate.flops_per_second:.1f} ms ({card}: {rate.source})"
    return Row(name, figure, {"seconds": seconds, "views_per_second": views, "card": card})


def _configs(here: Here) -> dict[str, Config]:
    """Name -> config of one process."""
    images, side = here.size((128, 224), (8, 16))
    name, width, stem = here.size(("resnet50", 1.0, "imagenet"), ("resnet10", 0.25, "small"))
    half: dict[str, Any] = {"precision": "bfloat16", "channels_last": True, "device": here.device.type}
    plain = config_of(name, images, side, width=width, stem=stem, **half)
    found = {f"{name}, {images} images of {side} px, bfloat16": plain}
    if here.on_gpu:
        groups: dict[str, Any] = {"group": images // 8, "recompute": "blocks"}
        found["the same in 8 groups, recompute=blocks"] = config_of(name, images, side, **groups, **half)
        found["ResNet-18, 512 images of 32 px, float32"] = config_of("resnet18", 512, 32, stem="small", device="cuda")
    return found


def _card(here: Here) -> str | None:
    if not here.on_gpu:
        return None
    return card_named(torch.cuda.get_device_name(0), torch.cuda.get_device_properties(0).total_memory)
