"""Steps on random images, for benchmarks that leave loading out: a global batch, and a trainer that takes it."""

import argparse
from dataclasses import replace
from pathlib import Path

import torch

from simclr_dist.config import Recipe, load_config
from simclr_dist.data.loading.batch import Batch, blank_batch
from simclr_dist.distributed.processes import Processes
from simclr_dist.training.trainer import Trainer


def random_batch(recipe: Recipe) -> Batch:
    """The recipe's global batch, with noise for views, the same each time."""
    generator = torch.Generator().manual_seed(recipe.seed)
    blank = blank_batch(recipe, recipe.global_batch_images, torch.device("cpu"))
    views = {
        name: torch.randint(0, 256, each.shape, dtype=torch.uint8, generator=generator)
        for name, each in blank.views.items()
    }
    return replace(blank, views=views)


def make_trainer(folder: str, options: argparse.Namespace, *more: str, device: str = "cpu") -> Trainer:
    """A trainer in one process that saves into ``folder``.

    ``options`` hold ``encoder``, ``images``, ``side`` and ``threads``; ``more`` are further overrides of the config.
    """
    torch.set_num_threads(options.threads)
    file = Path(folder) / "bench.yaml"
    file.write_text("recipe: {data: {source: digits}}\n")
    overrides = {
        "recipe.encoder.name": options.encoder,
        "recipe.global_batch_images": options.images,
        "recipe.data.image_size": options.side,
        "machine.run_dir": folder,
    }
    config = load_config(str(file), [*(f"{key}={value}" for key, value in overrides.items()), *more])
    return Trainer(config, Processes(), torch.device(device))
