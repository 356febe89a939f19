"""kNN and a linear probe after each stage of pretrained encoders: in which layer do the labels lie?

    python benchmarks/stage_probes.py OUT [--methods rotation simclr] [--seeds 0]

OUT is a folder of benchmarks/methods_on_images.py, whose runs, images and settings it takes. A stage's features are its
map's mean over all places, or over its quarters (``--side 2``). "untrained" has random weights. The best is chosen
by eye, on the test images: it tells where something is, and is no result of a method.
"""

import argparse
import json
import os
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from image_recipes import IMAGES, SOURCE, config_of
from image_runs import judged
from methods_on_images import overrides_of
from torch import Tensor, nn
from torch.nn import functional as F

from simclr_dist.data.sources.named import open_source
from simclr_dist.evaluation.features import Extraction, extract_features
from simclr_dist.evaluation.untrained import untrained_encoder
from simclr_dist.weights.read import load_encoder


class Stages(nn.Module):
    """Images to the maps of a ResNet's stages, each pooled to ``side`` x ``side`` places at most, side by side."""

    def __init__(self, encoder: Any, side: int) -> None:
        super().__init__()
        self.encoder, self.side = encoder, side
        self.ends: list[int] = []
        """Behind the features of each stage; known after a pass."""

    def forward(self, images: Tensor) -> Tensor:
        maps = self.encoder.backbone.stages(self.encoder.pixels_of(images))
        pooled = [F.adaptive_avg_pool2d(each, min(self.side, each.shape[-1])).flatten(1) for each in maps]
        self.ends = list(accumulate(each.shape[1] for each in pooled))
        return torch.cat(pooled, dim=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path, default=Path("/usr/share/datasets/fashion-mnist"))
    parser.add_argument("--methods", nargs="+", default=["rotation", "simclr"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--side", type=int, default=1)
    options = parser.parse_args()
    settings = json.loads((options.out / "settings.json").read_text())
    os.environ[SOURCE], os.environ[IMAGES] = settings["source"], str(settings["images"])
    rest = {"data": options.data, "workers": 1, "threads": 1}
    overrides = overrides_of(argparse.Namespace(**settings, **rest))
    where = Extraction(batch_images=250, device=torch.device(settings["device"]))
    for name in ["untrained", *options.methods]:
        config = config_of("simclr" if name == "untrained" else name, options.seed, options.out, overrides)
        data = config.recipe.data
        train, test = (open_source(data, config.machine.shards, split) for split in ("train", "test"))
        if name == "untrained":
            encoder = untrained_encoder(config.recipe, train)
        else:
            encoder = load_encoder(config.machine.run_dir).encoder
        stages = Stages(encoder, options.side)
        features = [extract_features(stages, each, data.image_size, where) for each in (train, test)]
        for number, (first, end) in enumerate(pairwise([0, *stages.ends])):
            of_stage = [np.ascontiguousarray(each[:, first:end]) for each in features]
            row = judged(of_stage[0], train, of_stage[1], test, where.device)
            print(f"{name:20} stage {number + 1}: {row['features']:5} features, "
                  f"kNN {100 * row['knn']:.2f} %, probe {100 * row['probe']:.2f} %", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
