"""The recipes of benchmarks/methods_on_images.py: one a method, on a fixed subset of a small data set.

Encoder, images, epochs, batch, views, optimizer and schedule are the same for all, after lightly's benchmark on
CIFAR-10 (SGD of 0.06 for 128 images, momentum 0.9, decay 5e-4); heads, temperatures and the like are each method's own.
"""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np

from simclr_dist.config import Config, load_config
from simclr_dist.config.recipe import Data
from simclr_dist.config.registry import METHODS
from simclr_dist.config.shards import Shards
from simclr_dist.data.sources.base import ImageSource, Subset
from simclr_dist.data.sources.named import open_source
from simclr_dist.random.permutation import permute

SOURCE = "METHODS_ON_IMAGES_SOURCE"
"""Environment variables, through which :func:`some_images` knows its data set and its number of training images."""
IMAGES = "METHODS_ON_IMAGES_COUNT"

BASE = """
recipe:
  data: {source: "image_recipes:some_images", mean: [0.286, 0.286, 0.286], std: [0.353, 0.353, 0.353]}
  encoder: {stem: small}
  optimizer: {name: sgd, base_learning_rate: 0.12, weight_decay: 5.0e-4}
  anomalies: {on_not_finite: stop}
"""
VIEWS = (
    "crop_area_min=0.2", "flip_probability=0.5", "brightness=0.4", "contrast=0.4", "saturation=0", "hue=0",
    "grayscale_probability=0", "blur_probability=0", "solarize_probability=0",
)  # fmt: skip
"""Of every group of every method: grey images have no hue, and at 28 pixels blur leaves little."""
SMALL = ("views.small.size=16", "views.small.crop_area_min=0.1", "views.small.crop_area_max=0.4")
KEYS: dict[str, tuple[str, ...]] = {
    "simclr": ("method.temperature=0.5", "method.projection.output_dim=128"),
    "moco": ("method.temperature=0.1", "method.queue_keys=4096", "method.momentum=0.99", "batch_norm_group_images=32"),
    "barlow_twins": (
        "method.hidden_dim=1024", "method.output_dim=1024", "method.vector_rate=1",
        "optimizer.base_learning_rate=0.02",
    ),
    "byol": ("method.hidden_dim=1024", "method.target_momentum=0.99"),
    "simsiam": ("method.output_dim=1024", "method.predictor_dim=256"),
    "vicreg": ("method.hidden_dim=1024", "method.output_dim=1024", "optimizer.base_learning_rate=0.03"),
    "memory_bank": (
        "method.loss=infonce", "method.noise_samples=0", "method.temperature=0.1", "optimizer.base_learning_rate=0.03",
    ),
    "moco_v3": ("method.temperature=0.2", "method.hidden_dim=1024"),
    "dino": (
        "method.hidden_dim=512", "method.bottleneck_dim=64", "method.output_dim=2048", "method.head_batch_norm=true",
        "method.teacher_momentum=0.99", "method.small_views=2", *SMALL,
    ),
    "swav": (
        "method.prototypes=128", "method.hidden_dim=512", "method.small_views=2", "method.frozen_steps=39", *SMALL,
    ),
    # Views twice as large as the images, of 56 pixels, give patches of 14 and 13; the defaults are for photographs.
    "jigsaw": ("method.patch_dim=256", "views.global.size=56"),
    "relative_patch": ("method.hidden_dim=1024", "method.color_shortcut=none", "views.global.size=56"),
}  # fmt: skip
"""Keys below ``recipe`` where a method's defaults are for ImageNet."""


def some_images(data: Data, split: str) -> ImageSource:
    """The source of the recipes: of the training images a fixed part, chosen once and for all, and all test images."""
    source = open_source(replace(data, source=os.environ[SOURCE]), Shards(), split)
    count = int(os.environ[IMAGES])
    if split == "test" or count >= len(source):
        return source
    return Subset(source, np.sort(permute(np.arange(len(source)), len(source), seed=0, epoch=0)[:count]))


def config_of(method: str, seed: int, folder: Path, overrides: list[str]) -> Config:
    """The recipe of a method, its run folder below ``folder``; ``overrides`` are those of the whole comparison."""
    file = folder / "base.yaml"
    if not file.exists():
        file.write_text(BASE)
    own = [f"recipe.{key}" for key in KEYS.get(method, ())]
    views = [f"recipe.views.{key}" for key in VIEWS]
    named = [
        f"recipe.method.name={method}",
        f"recipe.seed={seed}",
        f"machine.run_dir={folder / 'runs' / method}_{seed}",
    ]
    return load_config(str(file), [*named, *views, *own, *overrides])


def known_methods() -> list[str]:
    """SimCLR first, to which others are compared."""
    return sorted(METHODS, key=lambda name: (name != "simclr", name))
