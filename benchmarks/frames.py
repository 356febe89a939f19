"""Temporal contrast on real sequences: does the frame that looks nearest lie near in time?

    apt-get install visp-images-data opencv-doc; pip install .[video]
    python benchmarks/frames.py FOLDER [--epochs 6]

writes FOLDER/frames (six PGM sequences of ViSP and the first 600 frames of vtest.avi to train on; another sequence and
the rest of the video held out), trains the encoder in FOLDER/run, and sets it beside raw pixels and the untrained
encoder. Of each held-out sequence every frame is asked about by a view as the recipe draws them (cropped, in other
colours), among the other frames as they are.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from simclr_dist.config import Config, load_config
from simclr_dist.data.rendering.renderers import RENDERERS
from simclr_dist.data.rendering.torchvision_ import render_plain
from simclr_dist.data.sources.base import ImageSource
from simclr_dist.data.sources.named import open_source
from simclr_dist.data.sources.times import times_of
from simclr_dist.data.sources.videos import VideoFrames
from simclr_dist.data.views.groups import draw_groups
from simclr_dist.distributed.processes import Processes
from simclr_dist.evaluation.untrained import untrained_encoder
from simclr_dist.training.pretraining import pretrain
from simclr_dist.weights.read import load_encoder

VISP = Path("/usr/share/visp-images-data/ViSP-images")
SEQUENCES = {
    "train": ["mire-2", "cube", "ellipse-1", "line", "mbt-depth/castel/castel", "mbt-depth/Castle-simu/Images"],
    "test": ["mbt/cube"],
}
VIDEO = Path("/usr/share/doc/opencv-doc/examples/data/vtest.avi")
VIDEO_TRAIN = 600
SHORT_SIDE = 72  # of the frames as they are written: decoding them takes less than an encoder of 32 pixels
VIEW_EPOCH = 10**6  # whose views no run has seen
Rows = NDArray[np.float64]


def write_frames(folder: Path) -> None:
    """The frames of all sequences, small, by split; nothing when they are there."""
    if folder.exists():
        return
    part = folder.with_name("frames.part")
    for split, names in SEQUENCES.items():
        for name in names:
            for path in sorted((VISP / name).glob("*.pgm")):
                write_small(Image.open(path).convert("RGB"), part / split / name.replace("/", "-") / f"{path.stem}.png")
    video = VideoFrames(VIDEO.parent, [VIDEO.name])
    for number in range(len(video)):
        split = "train" if number < VIDEO_TRAIN else "test"
        picture = Image.fromarray(video.read(number).permute(1, 2, 0).numpy())
        write_small(picture, part / split / "vtest" / f"{number:04}.png")
    part.rename(folder)


def write_small(picture: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    scale = SHORT_SIDE / min(picture.size)
    picture.resize((round(picture.width * scale), round(picture.height * scale)), Image.Resampling.BOX).save(path)


def config_of(folder: Path, epochs: int, overrides: list[str]) -> Config:
    return load_config("frames_resnet50_temporal", [
        f"recipe.data.path={folder / 'frames'}", f"machine.run_dir={folder / 'run'}", f"recipe.epochs={epochs}",
        "recipe.warmup_epochs=2", "recipe.data.image_size=32", "recipe.global_batch_images=64",
        "recipe.encoder.name=resnet10", "recipe.encoder.width=0.25",
        "recipe.optimizer.base_learning_rate=0.2", "machine.precision=float32", "machine.loader_workers=1", *overrides,
    ])  # fmt: skip


def views_of(source: ImageSource, config: Config) -> tuple[Tensor, Tensor]:
    """All frames as they are, and a view of each, uint8 (frames, 3, side, side)."""
    samples = np.arange(len(source))
    group = draw_groups(config.recipe, VIEW_EPOCH, samples)[0]
    pictures = [source.read(int(sample)) for sample in samples]
    plain = [render_plain(picture, group.side) for picture in pictures]
    drawn = [
        RENDERERS["numba"].view(picture, group.parameters[0], row, group.side, *group.forms)
        for row, picture in enumerate(pictures)
    ]
    return torch.stack(plain), torch.stack(drawn)


def errors_in_time(asked: Rows, among: Rows, frame: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many numbers off the most similar other frame is, of one sequence; of cosines with or without the mean of
    ``among`` taken off the better ones."""
    found = []
    for mean in (0 * among[:1], among.mean(0, keepdims=True)):
        one, other = (
            (rows - mean) / np.maximum(np.linalg.norm(rows - mean, axis=1, keepdims=True), 1e-12)
            for rows in (asked, among)
        )
        similarity = one @ other.T
        np.fill_diagonal(similarity, -np.inf)
        found.append(abs(frame[similarity.argmax(1)] - frame))
    return max(found, key=lambda errors: float((errors <= 6).mean()))


def table(config: Config) -> list[str]:
    train, test = (open_source(config.recipe.data, config.machine.shards, split) for split in ("pretrain", "test"))
    plain, asked = views_of(test, config)
    times = times_of(test)
    assert times is not None

    def rows(encoder: torch.nn.Module) -> tuple[Rows, Rows]:
        encoder.eval()
        with torch.no_grad():
            found = [torch.cat([encoder(part) for part in each.split(64)]).double().numpy() for each in (asked, plain)]
        return found[0], found[1]

    kinds = {
        "raw pixels": (asked.flatten(1).double().numpy(), plain.flatten(1).double().numpy()),
        "untrained encoder": rows(untrained_encoder(config.recipe, train)),
        "temporal contrast": rows(load_encoder(config.machine.run_dir).encoder),
    }
    lines = ["| | " + " | ".join(f"{name}: within 6 | median" for name in SEQUENCE_NAMES) + " |"]
    lines.append("| --- |" + " --- | --- |" * len(SEQUENCE_NAMES))
    for kind, (one, other) in kinds.items():
        cells = []
        for sequence in range(len(SEQUENCE_NAMES)):
            of = times.sequence == sequence
            errors = errors_in_time(one[of], other[of], times.frame[of])
            cells += [f"{(errors <= 6).mean():.1%}", f"{np.median(errors):.0f}"]
        lines.append(f"| {kind} | " + " | ".join(cells) + " |")
    chance = [np.mean(abs(np.subtract.outer(f, f)) <= 6) for f in (times.frame[times.sequence == s] for s in (0, 1))]
    lines.append("| chance | " + " | ".join(f"{share:.1%} | " for share in chance) + "|")
    return lines


SEQUENCE_NAMES = ["mbt/cube", "vtest, the end"]  # in the order of the names of their folders


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("overrides", nargs="*", help="key=value of the recipe")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    write_frames(given.folder / "frames")
    config = config_of(given.folder, given.epochs, given.overrides)
    pretrain(config, Processes())
    print("\n".join(table(config)))


if __name__ == "__main__":
    main()
