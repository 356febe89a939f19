"""CPU seconds of `evaluate RUN probe --grid` over those of one probe by SGD, in turns.

    export PYTHONPATH=.
    python benchmarks/probe_grid.py [--config fashion_mnist_resnet10] [--images 2000] [KEY=VALUE ...]

With random weights: accuracies mean nothing here. ``augment`` takes crops and flips through the encoder in every epoch;
without it the centre crops' features are computed once, and the epochs are those of the linear layers alone.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from side_by_side import in_turn, ratio

from simclr_dist.config import load_config
from simclr_dist.config.shards import Shards
from simclr_dist.data.sources.base import Subset
from simclr_dist.evaluation.context import EvaluationContext
from simclr_dist.evaluation.features import Extraction
from simclr_dist.evaluation.frozen import probe
from simclr_dist.evaluation.probe_grid import probe_grid
from simclr_dist.methods.build import build_encoder
from simclr_dist.weights.loaded import LoadedEncoder


class SomeImages(EvaluationContext):
    """The first of each split."""

    def __init__(self, pretrained: LoadedEncoder, images: int, device: str) -> None:
        super().__init__(pretrained, Shards(), None, Extraction(batch_images=250, device=torch.device(device)))
        self.train = Subset(self.train, np.arange(images))
        self.test = Subset(self.test, np.arange(images // 4))
        self.train_labels, self.test_labels = self.train_labels[:images], self.test_labels[: images // 4]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("keys", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--config", default="fashion_mnist_resnet10")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--epochs", type=int, nargs=2, default=[10, 90], help="Of augment, and of centre crops.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    recipe = load_config(given.config, given.keys).recipe
    encoder = LoadedEncoder(encoder=build_encoder(recipe).eval(), projection=None, recipe=recipe, source="random")

    def judge(how: Callable[..., object], **choices: Any) -> object:
        return how(SomeImages(encoder, given.images, given.device), batch_images=given.batch, **choices)

    augmented, plain = given.epochs
    kinds = {
        f"augment, {augmented} epochs": {"augment": True, "epochs": augmented},
        f"centre crops, {plain} epochs": {"augment": False, "epochs": plain},
    }
    for name, choices in kinds.items():
        found = in_turn(
            {
                "one": partial(judge, probe, solver="sgd", **choices),
                "grid": partial(judge, probe_grid, **choices),
            },
            given.rounds,
            clock=time.process_time,
        )
        seconds = ", ".join(f"{key} {min(each):.2f} to {max(each):.2f} s" for key, each in found.items())
        print(f"{name}: grid over one probe {ratio(found['grid'], found['one'])}; {seconds}", flush=True)


if __name__ == "__main__":
    main()
