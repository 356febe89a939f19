"""What ``simclr-dist plan`` predicts of a step, against the step: memory, and time at the card's rate."""

from collections.abc import Iterator

import torch

from gpu_sections.here import Here, Row, config_of
from gpu_sections.step import trainer_step
from simclr_dist.config import Config
from simclr_dist.planning.cards import FLOPS_A_VIEW, card_named, rate_of
from simclr_dist.planning.traced_step import StepTrace, traced_step

_WITHIN = 0.10


def rows(here: Here) -> Iterator[Row]:
    for name, config in _configs(here).items():
        images = config.recipe.global_batch_images
        predicted = traced_step(config.recipe, config.machine, images, 1, images)
        step = trainer_step(config, here)
        step()  # makes the optimizer's state
        yield _memory(name, here, predicted, *here.peak_bytes(step))
        yield _rate(f"{name}, its rate", here, predicted, config.machine.precision, here.seconds(step))


def _memory(name: str, here: Here, predicted: StepTrace, peak: int, reserved: int) -> Row:
    ratio = predicted.peak_bytes / peak if peak else float("nan")
    figure = f"predicted {predicted.peak_bytes / 1e9:.2f} GB, measured {peak / 1e9:.2f} ({reserved / 1e9:.2f} reserved)"
    numbers = {"predicted_bytes": predicted.peak_bytes, "peak_bytes": peak, "reserved_bytes": reserved}
    holds = here.bound(abs(ratio - 1) <= _WITHIN)
    return Row(name, f"{figure}: {ratio:.3f}", numbers, f"within {_WITHIN:.0%}", holds)


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
    half = {"precision": "bfloat16", "channels_last": True, "device": here.device.type}
    plain = config_of(name, images, side, width=width, stem=stem, **half)
    found = {f"{name}, {images} images of {side} px, bfloat16": plain}
    if here.on_gpu:
        groups = {"group": images // 8, "recompute": "blocks"}
        found["the same in 8 groups, recompute=blocks"] = config_of(name, images, side, **groups, **half)
        found["ResNet-18, 512 images of 32 px, float32"] = config_of("resnet18", 512, 32, stem="small", device="cuda")
    return found


def _card(here: Here) -> str | None:
    if not here.on_gpu:
        return None
    return card_named(torch.cuda.get_device_name(0), torch.cuda.get_device_properties(0).total_memory)
