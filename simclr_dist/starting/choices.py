"""The rules of the first recipe: from what was found and measured to keys of a config, each with its reason.

Published values are those of Chen et al. 2020 (arXiv 2002.05709): ImageNet (section 2, appendix B.1), CIFAR (appendix
B.9). Where they say nothing (small batches, short runs on a CPU) the rule says that it is this project's.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from simclr_dist.config.recipe import usual_warmup
from simclr_dist.starting.pictures import Pictures
from simclr_dist.starting.speed import Host, Timing

WANTED_EPOCHS = 100
"""A larger encoder or picture is taken only where so many fit."""
MOST_EPOCHS = 1000
_SMALL_PICTURES = 64  # pixels up to which the stem and the views are the paper's for CIFAR
_STEPS_AN_EPOCH = 10
_USED_SHARE = 0.9  # of the hours; the rest is starting, saving, and a machine that is slower later
_FEW_IMAGES = 5000
_STEMS = {"small": "3x3, no pooling: for views of up to 64 px", "imagenet": "7x7 and pooling: for views above 64 px"}
_DEPTH_COST = {"resnet10": 1.0, "resnet18": 2.0, "resnet50": 4.6}


@dataclass(frozen=True)
class Choice:
    """A key of the config."""

    key: str
    value: Any
    why: str


@dataclass(frozen=True)
class Rung:
    """Size and encoder: one of those to choose among, from cheap to dear."""

    size: int
    encoder: str
    width: float = 1.0

    @property
    def stem(self) -> str:
        """The stem for this size."""
        return "small" if self.size <= _SMALL_PICTURES else "imagenet"

    @property
    def cost(self) -> float:
        """Operations for an image, in an arbitrary unit."""
        return self.size**2 / (1 if self.stem == "small" else 16) * self.width**2 * _DEPTH_COST[self.encoder]


@dataclass(frozen=True, kw_only=True)
class Found:
    """Everything that the choices follow from."""

    pictures: Pictures
    host: Host
    hours: float
    read_seconds: float
    """Of one core, to decode an image and make its views."""

    def seconds_an_image(self, step_seconds: float) -> float:
        """Of training: the step, and reading beside it."""
        host = self.host
        if not host.gpus:
            return step_seconds + self.read_seconds / host.cores
        return max(step_seconds / host.gpus, self.read_seconds / min(host.cores, 16 * host.gpus))

    def epochs(self, step_seconds: float) -> float:
        """How many fit into the hours, where a step takes so long for an image."""
        return self.hours * 3600 * _USED_SHARE / (self.seconds_an_image(step_seconds) * self.pictures.count)


def rungs(pictures: Pictures, host: Host) -> list[Rung]:
    """What is to be tried, from cheap to dear; none enlarges most of the pictures."""
    most = 224 if host.gpus else _SMALL_PICTURES
    side = min(most, max(16, 8 * round(pictures.short_sides[1] / 8)))
    ladder = [(32, "resnet10", 0.25), (48, "resnet10", 0.25), (48, "resnet10", 0.5), (64, "resnet10", 0.5),
              (64, "resnet18", 0.5), (64, "resnet18", 1.0)]  # fmt: skip
    if host.gpus:
        ladder = [(min(side, 96), "resnet18", 1.0), (min(side, 128), "resnet18", 1.0), (224, "resnet18", 1.0)]
        ladder += [(224, "resnet50", 1.0)] if pictures.count >= _FEW_IMAGES else []
    return list(dict.fromkeys(Rung(min(size, side), encoder, width) for size, encoder, width in ladder))


def chosen_rung(found: Found, measure: Callable[[Rung], Timing]) -> tuple[Rung, Timing]:
    """The dearest rung of which WANTED_EPOCHS fit into the hours, as measured; the cheapest where none does."""
    cheapest, *others = rungs(found.pictures, found.host)
    first = measure(cheapest)
    for rung in reversed(others):
        # A small network is slower than its operations say: one that may fit at half of the guess is tried.
        guess = first.seconds_an_image * rung.cost / cheapest.cost
        if found.epochs(guess / 2) >= WANTED_EPOCHS:
            timing = measure(rung)
            if found.epochs(timing.seconds_an_image) >= WANTED_EPOCHS:
                return rung, timing
    return cheapest, first


def host_for(images: int, host: Host) -> Host:
    """The part of the machine that so many images keep busy: one GPU where there are fewer than 64 for each."""
    return replace(host, gpus=1) if 64 * host.gpus > images and host.gpus else host


def batch_images(images: int, host: Host, bytes_an_image: float = 0.0) -> int:
    """The global batch: a power of two on each process, ten steps an epoch where that leaves 32 images and more."""
    processes = max(1, host.gpus)
    most = min(4096, 512 * processes) if host.gpus else 128
    if host.gpus and bytes_an_image:
        most = min(most, int(0.8 * host.gpu_bytes / bytes_an_image) * processes)
    wanted = min(most, max(images // _STEPS_AN_EPOCH, 32), images)
    return processes * (1 << max(1, (wanted // processes).bit_length() - 1))


def choices(found: Found, rung: Rung, timing: Timing) -> list[Choice]:
    """The keys that the file has, in its order; all others have their defaults."""
    pictures, host = found.pictures, found.host
    batch = batch_images(pictures.count, host, timing.bytes_an_image)
    fitting = found.epochs(timing.seconds_an_image)
    epochs = max(1, int(min(MOST_EPOCHS, fitting)))
    steps = pictures.count // batch
    per_second = 1 / found.seconds_an_image(timing.seconds_an_image)
    speed = f"{per_second:,.0f}" if per_second >= 100 else f"{per_second:.2g}"
    time = f"{speed} pictures/s measured here, {found.hours:g} h"
    why_epochs = (
        f"what fits: {time}" if fitting < MOST_EPOCHS else f"as many as the paper's longest run; {time} allow more"
    )
    if fitting < 1:
        why_epochs = f"the least there is, and longer than asked: {time}"
    kept = [
        Choice("recipe.epochs", epochs, why_epochs),
        Choice("recipe.warmup_epochs", round(usual_warmup(epochs), 2), "a tenth of the epochs, at most 10"),
        Choice("recipe.global_batch_images", batch, _why_batch(batch, steps, host)),
        Choice("recipe.data.source", "folder", "all pictures below path, at any depth; docs/data.md"),
        Choice("recipe.data.path", str(pictures.path), f"{pictures.count:,} pictures"),
        Choice("recipe.data.image_size", rung.size, _why_size(rung, pictures, host)),
        *_views(rung, pictures),
        Choice("recipe.encoder.name", rung.encoder, _why_encoder(rung, host, pictures)),
        *([Choice("recipe.encoder.width", rung.width, "of the usual channels: a CPU")] if rung.width != 1 else []),
        Choice("recipe.encoder.stem", rung.stem, _STEMS[rung.stem]),
        Choice("recipe.method.name", "simclr", "or moco, byol, swav and others: simclr-dist methods"),
        _temperature(rung),
        *_optimizer(batch, rung),
    ]  # fmt: skip
    return [*kept, *_machine(found, epochs, steps)]


def _views(rung: Rung, pictures: Pictures) -> list[Choice]:
    chosen = []
    if pictures.short_sides[1] * math.sqrt(0.08) < 16:
        chosen.append(Choice("crop_area_min", 0.2, "8 %, the default, of such small pictures is a few pixels a side"))
    chosen.append(Choice("flip_probability", 0.5, "0 where left and right differ in meaning: digits, text, road signs"))
    if pictures.grey:
        chosen += [Choice(key, 0.0, "the pictures are grey") for key in ("saturation", "hue", "grayscale_probability")]
    if rung.size <= 96:
        chosen.append(Choice("color_strength", 0.5, "the paper's for small pictures (CIFAR); 1 for ImageNet"))
    if rung.size <= _SMALL_PICTURES:
        chosen.append(Choice("blur_probability", 0.0, "the paper's for small pictures (CIFAR)"))
    return [Choice(f"recipe.views.{choice.key}", choice.value, choice.why) for choice in chosen]


def _temperature(rung: Rung) -> Choice:
    if rung.size <= 96:
        return Choice("recipe.method.temperature", 0.5, "the paper's for small pictures (CIFAR)")
    return Choice("recipe.method.temperature", 0.1, "the paper's for ImageNet")


def _optimizer(batch: int, rung: Rung) -> list[Choice]:
    prefix = "recipe.optimizer."
    if batch < 512:
        return [
            Choice(f"{prefix}name", "adamw", "LARS is for batches of 512 and more"),
            Choice(f"{prefix}base_learning_rate", 0.001, "the peak"),
            Choice(f"{prefix}learning_rate_scaling", "none", "the same at every batch below 512"),
            Choice(f"{prefix}weight_decay", 1e-4, "as usual for small pictures"),
        ]  # fmt: skip
    base, scaling, peak = (1.0, "linear", batch / 256) if rung.size <= 96 else (0.075, "sqrt", 0.075 * math.sqrt(batch))
    return [
        Choice(f"{prefix}name", "lars", "the paper's, for batches of 512 and more"),
        Choice(f"{prefix}base_learning_rate", base, f"scaled with the batch to a peak of {peak:.3g}"),
        Choice(f"{prefix}learning_rate_scaling", scaling, "by B / 256" if scaling == "linear" else "by sqrt(B)"),
        Choice(f"{prefix}weight_decay", 1e-4 if rung.size <= 96 else 1e-6, "as shipped recipes of this size"),
    ]  # fmt: skip


def _machine(found: Found, epochs: int, steps: int) -> list[Choice]:
    host, pictures = found.host, found.pictures
    chosen = []
    if host.gpus:
        chosen.append(Choice("machine.precision", host.half, f"fast on {host.gpu}"))
        chosen.append(Choice("machine.channels_last", True, "faster convolutions on GPUs"))
    every = max(10, min(500, epochs * steps // 10))
    chosen.append(Choice("machine.save_every_steps", every, f"steps; the run has {epochs * steps:,}"))
    chosen.append(_broken(pictures))
    if pictures.held_out and len(pictures.classes) > 1 and min(pictures.classes.values()) >= 5:
        often = max(1, epochs // 10)
        chosen.append(Choice("machine.evaluate_every_epochs", often, "kNN on training pictures, for the report"))
    return chosen


def _broken(pictures: Pictures) -> Choice:
    """Those that are broken below their headers were not seen: the run goes on with more than were found."""
    found = len(pictures.unreadable)
    share = min(1.0, round(0.01 + 2 * found / pictures.looked_at, 4))
    why = f"unreadable pictures are left out up to this share; {found} of {pictures.looked_at:,} looked at were"
    return Choice("machine.max_broken_image_share", share, why)


def _why_batch(batch: int, steps: int, host: Host) -> str:
    many = f"{steps} steps an epoch" if steps > 1 else "1 step an epoch"
    where = f"{host.gpus} GPUs" if host.gpus > 1 else "one GPU" if host.gpus else "a CPU"
    return f"{many}, of the pictures that there are, on {where}"


def _why_size(rung: Rung, pictures: Pictures, host: Host) -> str:
    middle = f"the short sides' median is {pictures.short_sides[1]:,} px"
    if rung.size + 4 < min(pictures.short_sides[1], 224):
        return f"{middle}; larger views take longer than {'a GPU' if host.gpus else 'a CPU'} has in the hours"
    return middle


def _why_encoder(rung: Rung, host: Host, pictures: Pictures) -> str:
    if not host.gpus:
        return f"the largest tried of which {WANTED_EPOCHS} epochs fit on {host.cores} cores, else the smallest"
    few = f"; fewer than {_FEW_IMAGES:,} pictures" if pictures.count < _FEW_IMAGES else ""
    return f"the largest tried of which {WANTED_EPOCHS} epochs fit, else the smallest{few}"
