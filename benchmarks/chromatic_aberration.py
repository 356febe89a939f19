"""Relative patch and its short-cut: photographs with and without a lens's chromatic aberration.

    pip install .[dev]
    python benchmarks/chromatic_aberration.py OUT [--epochs 40] [--device cuda --workers 4]

Tiles of nine photographs (scikit-image's and scikit-learn's; the right quarter of each held out) are the data, once as
they are and once as a lens would show each of them that magnifies red a little more and blue a little less than green:
the colours of a patch then tell where in its tile it lay. Relative patch is trained on both, with `color_shortcut`
none (it is left in), drop and project. What is asked: how well the task is answered on held-out tiles, and what the
encoder's features tell of tiles as they are (which photograph? kNN and probe), beside raw pixels and the encoder with
random weights. OUT/rows.json keeps what is done: the same command goes on.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import skimage.data
import torch
from image_runs import judged, write
from numpy.typing import NDArray
from photographs import TEST_SHARE, photographs
from PIL import Image
from same_settings import same_settings

from simclr_dist.config import Config, load_config
from simclr_dist.data.loading.batches import build_batches
from simclr_dist.data.loading.order import build_order
from simclr_dist.data.sources.named import open_source
from simclr_dist.distributed.devices import choose_device
from simclr_dist.distributed.processes import Processes
from simclr_dist.evaluation.features import Extraction, extract_features, raw_pixels
from simclr_dist.evaluation.untrained import untrained_encoder
from simclr_dist.methods.build import build_method
from simclr_dist.models.encoder import Encoder
from simclr_dist.training.pretraining import pretrain
from simclr_dist.weights.read import load_encoder
from simclr_dist.weights.saved import saved_state

SHIFT = 1.1
"""By how many pixels red is moved outwards at the middle of a tile's side, and blue inwards."""
OTHERS = ("hubble_deep_field", "immunohistochemistry", "retina")
"""Of scikit-image, beside those of photographs.py."""
KINDS = ("as it is", "aberration")
SHORTCUTS = ("none", "drop", "project")
BASE = """
recipe:
  warmup_epochs: 2
  global_batch_images: 128
  data: {source: folder}
  encoder: {name: resnet10, stem: small}
  method: {name: relative_patch, gap: 0.3, hidden_dim: 512}
  views: {crop_area_min: 0.6}
  optimizer: {name: adamw, momentum: 0.9, base_learning_rate: 0.002, learning_rate_scaling: none, weight_decay: 0.01}
"""


def aberrant(tile: Image.Image, magnified: float) -> Image.Image:
    """As a lens shows it whose axis meets the middle of the tile: green as it is, red ``magnified`` so much, blue made
    as much smaller."""
    channels = []
    for channel, scale in zip(tile.split(), (1 + magnified, 1.0, 1 - magnified), strict=True):
        off = (tile.width - 1) / 2 * (1 - 1 / scale)
        matrix = (1 / scale, 0, off, 0, 1 / scale, off)
        channels.append(channel.transform(tile.size, Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC))
    return Image.merge("RGB", channels)


def write_tiles(folder: Path, side: int, train: int, test: int) -> None:
    """FOLDER/KIND/SPLIT/PHOTOGRAPH/*.png, the same places of both kinds; nothing when they are there."""
    if folder.exists():
        return
    part, generator = folder.with_name("tiles.part"), np.random.default_rng(0)
    found: dict[str, NDArray[np.uint8]] = photographs()
    found |= {name: np.ascontiguousarray(getattr(skimage.data, name)()[..., :3]) for name in OTHERS}
    margin = round(2 * SHIFT)  # a channel made smaller would show what is beyond the tile
    for name, photograph in found.items():
        border = round(photograph.shape[1] * (1 - TEST_SHARE))
        for split, place, count in (("train", photograph[:, :border], train), ("test", photograph[:, border:], test)):
            for number in range(count):
                wide = min(round(side * generator.uniform(1, 1.5)), *place.shape[:2])
                top, left = (int(generator.integers(0, extent - wide + 1)) for extent in place.shape[:2])
                tile = Image.fromarray(place[top : top + wide, left : left + wide]).resize((side + 2 * margin,) * 2)
                for kind, shown in zip(KINDS, (tile, aberrant(tile, 2 * SHIFT / side)), strict=True):
                    path = part / kind / split / name / f"{number:04}.png"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    shown.crop((margin, margin, side + margin, side + margin)).save(path)
    part.rename(folder)


def config_of(kind: str, shortcut: str, seed: int, options: argparse.Namespace) -> Config:
    file = options.out / "base.yaml"
    file.write_text(BASE)
    run = options.out / "runs" / f"{kind}, {shortcut}, {seed}"
    keys = [
        f"recipe.data.path={options.out / 'tiles' / kind}", f"recipe.seed={seed}", f"recipe.epochs={options.epochs}",
        f"recipe.encoder.width={options.width}", f"recipe.data.image_size={options.side}",
        f"recipe.views.size={options.side * 6 // 7}", f"recipe.method.neighbours={options.neighbours}",
        f"recipe.method.color_shortcut={shortcut}",
        f"machine.run_dir={run}", f"machine.device={options.device}", f"machine.precision={options.precision}",
        f"machine.loader_workers={options.workers}", f"machine.threads_per_process={options.threads}",
        "machine.channels_last=true", "machine.views_on_device=false", "machine.keep_checkpoints=1",
    ]  # fmt: skip
    return load_config(str(file), keys)


def task_of(config: Config) -> float:
    """The task's accuracy on held-out tiles of the kind that was trained on; four draws of each, running statistics."""
    recipe, device = config.recipe, choose_device(config.machine.device, 0)
    source = open_source(recipe.data, config.machine.shards, "test")
    method = build_method(recipe, len(source))
    method.load_state_dict(saved_state(Path(config.machine.run_dir)).state["model"])
    method.to(device).eval()
    order = build_order(recipe, len(source))
    batches = build_batches(config, source, order)
    found = []
    with torch.no_grad():
        for step in range(4 * order.steps_per_epoch):
            batch = method.prepare(batches[step].to(device))
            found.append(float(method.loss(method.embed(batch), method.targets(batch), batch)["relative_patch_top1"]))
    return float(np.mean(found))


def rows(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Each as it is found, those that are in OUT/rows.json first."""
    file = options.out / "rows.json"
    known: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    plain = config_of(KINDS[0], "none", 0, options)
    how = Extraction(batch_images=250, device=choose_device(options.device, 0))
    tiles = [open_source(plain.recipe.data, plain.machine.shards, split) for split in ("train", "test")]

    def told(features: Callable[[Any], Any]) -> dict[str, Any]:
        return judged(features(tiles[0]), tiles[0], features(tiles[1]), tiles[1], how.device)

    def of(encoder: Encoder) -> dict[str, Any]:
        return told(lambda source: extract_features(encoder, source, plain.recipe.data.image_size, how))

    def trained(kind: str, shortcut: str, seed: int) -> dict[str, Any]:
        config = config_of(kind, shortcut, seed, options)
        pretrain(config, Processes())
        return {"task": task_of(config), **of(load_encoder(config.machine.run_dir).encoder)}

    jobs: dict[str, Callable[[], dict[str, Any]]] = {
        "raw pixels, 32 x 32": lambda: told(lambda source: raw_pixels(source, 32)),
        "untrained": lambda: of(untrained_encoder(plain.recipe, tiles[0])),
    }
    for seed, kind, shortcut in product(options.seeds, KINDS, SHORTCUTS):
        jobs[f"{kind}, {shortcut}, {seed}"] = partial(trained, kind, shortcut, seed)
    for name, job in jobs.items():
        if name not in known:
            known[name] = job()
            write(file, known)
        yield {"name": name, **known[name]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--side", type=int, default=112, help="of a tile, in pixels")
    parser.add_argument("--neighbours", type=int, default=8, help="of an image, in a step")
    parser.add_argument("--train", type=int, default=400, help="tiles of a photograph")
    parser.add_argument("--test", type=int, default=100)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--width", type=float, default=0.5)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--workers", type=int, default=0, help="that load images")
    options = parser.parse_args()
    options.out = options.out.resolve()
    options.out.mkdir(parents=True, exist_ok=True)
    same_settings(
        options.out, {key: getattr(options, key) for key in ("side", "neighbours", "train", "test", "epochs", "width")}
    )
    write_tiles(options.out / "tiles", options.side, options.train, options.test)
    print(f"{'photographs, color_shortcut, seed':34} {'task, held out':>14} {'kNN':>6} {'probe':>6}", flush=True)
    for row in rows(options):
        task = f"{100 * row['task']:.1f} %" if "task" in row else ""
        print(f"{row['name']:34} {task:>14} {100 * row['knn']:6.1f} {100 * row['probe']:6.1f}", flush=True)


if __name__ == "__main__":
    main()
