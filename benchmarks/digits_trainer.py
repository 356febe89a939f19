"""The trainer that benchmarks of a step measure, on images of any size that are not loaded."""

import argparse
from pathlib import Path

import torch

from simclr_dist.config import load_config
from simclr_dist.distributed.processes import Processes
from simclr_dist.training.trainer import Trainer


def make_trainer(folder: str, options: argparse.Namespace) -> tuple[Trainer, torch.Tensor]:
    """A trainer in one process that saves into ``folder``, and a global batch of random images for it.

    ``options`` hold ``encoder``, ``images``, ``side`` and ``threads``.
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
    config = load_config(str(file), [f"{key}={value}" for key, value in overrides.items()])
    images = torch.randint(0, 256, (options.images, 2, 3, options.side, options.side), dtype=torch.uint8)
    return Trainer(config, Processes(), torch.device("cpu")), images
