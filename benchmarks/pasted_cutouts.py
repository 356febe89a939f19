"""A set for segmentation with exact masks: cut-outs of a distribution's packages pasted on photographs.

    apt-get install tuxpaint-stamps-default gnome-backgrounds
    pip install .[dev]
    python benchmarks/pasted_cutouts.py FOLDER [--side 64] [--train 1000] [--test 300] [--unlabelled 2000]
    python benchmarks/pasted_cutouts.py FOLDER --cutouts-a-class 3

writes FOLDER/classes.txt, FOLDER/train/{images,masks,unlabelled}, FOLDER/test/{images,masks} as source
`folder_with_masks` reads them, FOLDER/sheet.png to look at, and FOLDER/manifest.json: what each split is made of and
the SHA-256 of all pixels. It prints how often classes occur and what mean IoU is had without a network.

No cut-out is in both splits, nor is any place of a photograph. Each image is drawn from (seed, split, number) alone:
fewer images are the first of more. Objects lie over each other, are turned, scaled and mirrored; some are of no class
(a drum, a road sign) and count as background, so that being pasted is no sign of a class.

With --cutouts-a-class the few cut-outs of a class are in both splits, so few images show all of them: what is asked
is to know an object again when it is pasted in another way and place, not another object of its class.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import PIL
from numpy.typing import NDArray
from pasted_parts import (
    CLASS_FOLDERS,
    SPLITS,
    STAMPS,
    WALLPAPERS,
    Pixels,
    few_of,
    find_cutouts,
    part_of,
    read_cutout,
    read_photographs,
    split_of,
)
from PIL import Image, ImageFilter, ImageOps

from simclr_dist.data.sources.base import IGNORED

OBJECTS = (2, 4)
"""Of a class, in an image: fewest and most; each of another class, so that few images have all."""
LENGTHS = (0.45, 0.85)
"""Of the longer side of an object, as a share of the image's side."""
CENTRES = (0.1, 0.9)
"""Where the middle of an object may be, as shares of the image's side: some are cut by its edge."""
TURN = 20.0
"""Degrees, at most, to both sides."""
RIM = (0.1, 0.9)
"""Between these alphas a pixel is part object and part ground, so no class is its own: it is ignored."""


class Drawn:
    """Numbers of one image: of its set's seed, its part and its number."""

    def __init__(self, seed: int, part: str, number: int) -> None:
        key = hashlib.sha256(f"{seed} {part} {number}".encode()).digest()
        self._generator = np.random.Generator(np.random.Philox(key=int.from_bytes(key[:16], "little")))

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * float(self._generator.random())

    def below(self, count: int) -> int:
        return min(int(self._generator.random() * count), count - 1)

    def noise(self, shape: tuple[int, ...]) -> NDArray[np.float64]:
        """Even between -1 and 1."""
        return 2 * self._generator.random(shape) - 1


def ground(photographs: Sequence[Pixels], side: int, drawn: Drawn) -> NDArray[np.float64]:
    """A square of a photograph, (side, side, 3) from 0 to 255, each channel darkened by itself."""
    photograph = photographs[drawn.below(len(photographs))]
    height, width = photograph.shape[:2]
    extent = round(drawn.between(min(side, height, width), min(height, width)))
    top, left = drawn.below(height - extent + 1), drawn.below(width - extent + 1)
    crop = Image.fromarray(photograph[top : top + extent, left : left + extent])
    if drawn.below(2):
        crop = ImageOps.mirror(crop)
    pixels = np.asarray(crop.resize((side, side), Image.Resampling.BILINEAR), dtype=np.float64)
    darkened: NDArray[np.float64] = pixels * np.array([drawn.between(0.6, 1.0) for _ in range(3)])
    return darkened


def paste(canvas: NDArray[np.float64], mask: Pixels, cutout: Image.Image, label: int, drawn: Drawn) -> None:
    """Lay a cut-out over ``canvas`` (side, side, 3) and its class over ``mask`` (side, side), anywhere in the image.

    The rim is ignored only where it parts two classes.
    """
    side = len(mask)
    turned = (ImageOps.mirror(cutout) if drawn.below(2) else cutout).rotate(
        drawn.between(-TURN, TURN), Image.Resampling.BICUBIC, expand=True
    )
    length = side * LENGTHS[0] * (LENGTHS[1] / LENGTHS[0]) ** drawn.between(0, 1)
    scale = length / max(turned.size)
    size = (max(2, round(turned.width * scale)), max(2, round(turned.height * scale)))
    resized = turned.resize(size, Image.Resampling.BOX if scale < 1 else Image.Resampling.BILINEAR)
    layer = Image.new("RGBA", (side, side))
    left, top = (round(side * drawn.between(*CENTRES) - extent / 2) for extent in size)
    layer.paste(resized, (left, top))
    pixels = np.asarray(layer, dtype=np.float64)
    alpha = pixels[..., 3] / 255
    canvas *= 1 - alpha[..., None]
    canvas += pixels[..., :3] * alpha[..., None] * drawn.between(0.7, 1.1)
    mask[(alpha > RIM[0]) & (alpha < RIM[1]) & (mask != label)] = IGNORED
    mask[alpha >= RIM[1]] = label


def compose(
    cutouts: Sequence[Sequence[Image.Image]], photographs: Sequence[Pixels], side: int, drawn: Drawn
) -> tuple[Pixels, Pixels]:
    """An image (side, side, 3) and its mask (side, side); ``cutouts`` by class, those of class 0 of no class."""
    canvas, mask = ground(photographs, side, drawn), np.zeros((side, side), dtype=np.uint8)
    left = list(range(1, len(cutouts)))
    count = OBJECTS[0] + drawn.below(OBJECTS[1] - OBJECTS[0] + 1)
    labels = [left.pop(drawn.below(len(left))) for _ in range(count)]
    for _ in range(drawn.below(3) if cutouts[0] else 0):
        labels.insert(drawn.below(len(labels) + 1), 0)
    for label in labels:
        paste(canvas, mask, cutouts[label][drawn.below(len(cutouts[label]))], label, drawn)
    # One blur and one noise over object and ground: how sharp or grainy a place is says nothing of what it is.
    blurred = Image.fromarray(np.clip(np.rint(canvas), 0, 255).astype(np.uint8)).filter(
        ImageFilter.GaussianBlur(drawn.between(0, 0.01 * side))
    )
    noisy = np.asarray(blurred, dtype=np.float64) + drawn.between(0, 16) * drawn.noise((side, side, 1))
    return np.clip(np.rint(noisy), 0, 255).astype(np.uint8), mask


def write_set(
    folder: Path,
    cutouts: Mapping[str, Mapping[str, Mapping[str, Image.Image]]],
    photographs: Mapping[str, Pixels],
    *,
    side: int,
    counts: Mapping[str, int],
    seed: int = 0,
) -> str:
    """Write images and masks of ``counts`` (train, test, unlabelled); the SHA-256 of all their names and pixels.

    ``cutouts[split][class][name]``; unlabelled images are made of those of the training images.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "classes.txt").write_text("".join(f"{name}\n" for name in cutouts["train"]))
    digest = hashlib.sha256()
    for part, count in counts.items():
        split = "test" if part == "test" else "train"
        members = [list(of_class.values()) for of_class in cutouts[split].values()]
        grounds = [part_of(photograph, split) for photograph in photographs.values()]
        to = folder / split / ("unlabelled" if part == "unlabelled" else "images")
        for directory in (to, folder / split / "masks"):
            directory.mkdir(parents=True, exist_ok=True)
        for number in range(count):
            image, mask = compose(members, grounds, side, Drawn(seed, part, number))
            digest.update(f"{part} {number}".encode() + image.tobytes() + mask.tobytes())
            Image.fromarray(image).save(to / f"{number:05}.png")
            if part != "unlabelled":
                Image.fromarray(mask).save(folder / split / "masks" / f"{number:05}.png")
            if sys.stdout.isatty() and number % 20 == 0:
                print(f"\r{part}: {number}/{count}", end="", flush=True)
        print(f"{chr(13) if sys.stdout.isatty() else ''}{part}: {count} images", flush=True)
    return digest.hexdigest()


def read_all(stamps: Path, of_a_class: int = 0) -> dict[str, dict[str, dict[str, Image.Image]]]:
    """Cut-outs by split, class and name: all, split; or the same few ``of_a_class`` for both splits.

    Those of no class are as few.
    """
    cutouts: dict[str, dict[str, dict[str, Image.Image]]] = {split: {} for split in SPLITS}
    for name, found in find_cutouts(stamps).items():
        read = {path: cutout for path in found if (cutout := read_cutout(stamps / path)) is not None}
        names = list(read)
        members_of = dict.fromkeys(SPLITS, few_of(names, of_a_class)) if of_a_class else split_of(names)
        for split, members in members_of.items():
            cutouts[split][name] = {path: read[path] for path in members}
            if name != "background" and len(members) < (of_a_class or 1):
                asked = f", {of_a_class} asked for" if of_a_class else ""
                sys.exit(f"{stamps}: {len(members)} cut-outs for {name}{asked}; is tuxpaint-stamps-default whole?")
    return cutouts


def sheet(folder: Path, columns: int = 12, rows: int = 3) -> Image.Image:
    """The first training images over their masks in colours, ignored pixels white."""
    colours = np.zeros((256, 3), dtype=np.uint8)
    colours[1:10] = np.random.default_rng(3).permutation(
        np.array([(230, 60, 60), (60, 160, 230), (60, 180, 75), (240, 190, 40), (150, 70, 200), (240, 130, 50),
                  (70, 210, 200), (240, 120, 190), (150, 150, 90)], dtype=np.uint8)
    )  # fmt: skip
    colours[IGNORED] = 255
    images = sorted((folder / "images").iterdir())[: columns * rows]
    side = Image.open(images[0]).width
    drawn = Image.new("RGB", (columns * (side + 2), rows * (2 * side + 6)), "white")
    for number, path in enumerate(images):
        left, top = number % columns * (side + 2), number // columns * (2 * side + 6)
        drawn.paste(Image.open(path), (left, top))
        drawn.paste(Image.fromarray(colours[np.asarray(Image.open(folder / "masks" / path.name))]), (left, top + side))
    return drawn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--side", type=int, default=64, help="of the images, in pixels")
    for part, default in (("train", 1000), ("test", 300), ("unlabelled", 2000)):
        parser.add_argument(f"--{part}", type=int, default=default, help=f"how many {part} images")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cutouts-a-class", type=int, default=0, help="the same in both splits; 0: all, split")
    parser.add_argument("--stamps", type=Path, default=STAMPS)
    parser.add_argument("--wallpapers", type=Path, default=WALLPAPERS)
    options = parser.parse_args()
    if options.folder.exists() and any(options.folder.iterdir()):
        sys.exit(f"{options.folder} is not empty: remove it, or give another")
    counts = {part: getattr(options, part) for part in ("train", "test", "unlabelled")}
    print("reading cut-outs and photographs", flush=True)
    cutouts, photographs = read_all(options.stamps, options.cutouts_a_class), read_photographs(options.wallpapers)
    for name in CLASS_FOLDERS:
        of_class = [f"{len(cutouts[split][name])} to {split}" for split in SPLITS]
        print(f"  {name if name != 'background' else '(no class)':12} {', '.join(of_class)}")
    digest = write_set(options.folder, cutouts, photographs, side=options.side, counts=counts, seed=options.seed)
    manifest = {
        "sha256_of_pixels": digest, "seed": options.seed, "side": options.side, "images": counts,
        "cutouts_a_class": options.cutouts_a_class or "all, split",
        "versions": {"numpy": np.__version__, "pillow": PIL.__version__, "scikit-image": version("scikit-image")},
        "photographs": list(photographs),
        "cutouts": {split: {name: list(found) for name, found in cutouts[split].items()} for split in SPLITS},
    }  # fmt: skip
    (options.folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
    sheet(options.folder / "train").save(options.folder / "sheet.png")
    from pasted_baselines import print_context  # scikit-learn takes seconds to import

    print_context(options.folder, list(CLASS_FOLDERS))
    print(f"SHA-256 of all pixels: {digest}")


if __name__ == "__main__":
    main()
