"""What pasted_cutouts.py makes its images of: cut-outs and photographs that a distribution installs, split in two."""

import hashlib
import re
import sys
from pathlib import Path

import numpy as np
import skimage.data
from numpy.typing import NDArray
from PIL import Image, ImageFilter

STAMPS = Path("/usr/share/tuxpaint/stamps")
WALLPAPERS = Path("/usr/share/backgrounds/gnome")
SPLITS = ("train", "test")
TEST_SHARE = 0.3
KEPT_SIDE = 192
"""Cut-outs are kept no longer than this, in pixels: more than any of them is shown with."""

CLASS_FOLDERS: dict[str, tuple[str, ...]] = {
    # Objects that are of no class, so that being an object is not enough to be one of a class.
    "background": ("clothes", "hobbies", "space", "sports", "town/flags", "town/roadsigns"),
    "mammal": ("animals/mammals", "animals/marsupials"),
    "bird": ("animals/birds",),
    "plant": ("plants/flowers", "plants/trees"),
    "food": ("food",),
    "vehicle": ("vehicles", "military/vehicles"),
    "building": ("town/houses", "town/cartoon", "town/monuments"),
    "household": ("household",),
}
"""In the order of their numbers; folders of the stamps."""
NO_MEMBERS = ("trainSign", "7spoke256", "wheel_tractor", "cementmixer", "shipwreck", "sword_in_the_stone", "rambutan")
"""Stamps (the beginnings of their names) that lie in a folder of another class than theirs."""
WALLPAPER_NAMES = tuple(
    f"{name}-{tone}.webp" for name in ("adwaita", "grid", "licorice", "symbolic", "truchet", "wood") for tone in "dl"
)
"""Without those that show objects, or one colour."""
PHOTOGRAPH_NAMES = (
    "astronaut", "brick", "grass", "gravel", "hubble_deep_field", "immunohistochemistry", "moon", "retina",
)  # fmt: skip
"""Of scikit-image: without those that show a cat, a cup or a motorcycle, which would be background here."""

Pixels = NDArray[np.uint8]


def find_cutouts(stamps: Path = STAMPS) -> dict[str, list[str]]:
    """Paths below ``stamps`` by class, sorted; of files of the same content the first, none of drawn mirror images."""
    if not stamps.is_dir():
        sys.exit(f"{stamps} is missing: install Debian's tuxpaint-stamps-default, or give --stamps")
    found: dict[str, list[str]] = {}
    seen: set[str] = set()
    for name, folders in CLASS_FOLDERS.items():
        found[name] = []
        for path in sorted(path for folder in folders for path in (stamps / folder).rglob("*.png")):
            content = hashlib.sha256(path.read_bytes()).hexdigest()
            if path.stem.endswith(("_mirror", "_flip")) or path.stem.startswith(NO_MEMBERS) or content in seen:
                continue
            seen.add(content)
            found[name].append(str(path.relative_to(stamps)))
    return found


def split_of(names: list[str]) -> dict[str, list[str]]:
    """The cut-outs of one class in train and test, by the hash of the first word of their names.

    All that begin with the same word go to the same side: ``gnu-baby`` and ``gnu-sitting``, ``pig_golden`` and
    ``pig_golden2`` may be one animal photographed twice.
    """
    split: dict[str, list[str]] = {part: [] for part in SPLITS}
    for group in _by_first_word(names):
        fits = len(split["test"]) + len(group) <= round(TEST_SHARE * len(names))
        split["test" if fits else "train"] += group
    return {part: sorted(members) for part, members in split.items()}


def few_of(names: list[str], count: int) -> list[str]:
    """At most so many cut-outs of one class, each of another first word; fewer are the first of more.

    Of each word the last, as ``-photo`` comes after ``-outline``.
    """
    return [max(group) for group in _by_first_word(names)[:count]]


def _by_first_word(names: list[str]) -> list[list[str]]:
    """All that begin with the same word together, in the order of the words' hashes."""
    groups: dict[str, list[str]] = {}
    for name in names:
        words = re.findall(r"[a-z]+", Path(name).stem.lower())
        groups.setdefault(words[0] if words else Path(name).stem, []).append(name)
    return [groups[word] for word in sorted(groups, key=lambda word: hashlib.sha256(word.encode()).digest())]


def read_cutout(path: Path) -> Image.Image | None:
    """An RGBA image cut to what is seen; None where it is not a cut-out: all opaque, or largely see-through."""
    with Image.open(path) as opened:
        image = opened.convert("RGBA")
    # One pixel off all around: what the makers left of their white paper would tell an object from a photograph.
    image.putalpha(image.getchannel("A").filter(ImageFilter.MinFilter(3)))
    alpha = np.asarray(image.getchannel("A"))
    seen, opaque = (alpha > 25).sum(), (alpha >= 230).sum()
    box = image.getchannel("A").point(lambda value: 255 if value > 25 else 0).getbbox()
    if box is None or opaque < 0.7 * seen or not (alpha == 0).any():
        return None
    image = image.crop(box)
    image.thumbnail((KEPT_SIDE, KEPT_SIDE), Image.Resampling.BOX)
    return image


def read_photographs(wallpapers: Path = WALLPAPERS) -> dict[str, Pixels]:
    """(height, width, 3) by name: GNOME's wallpapers, four times smaller, and scikit-image's photographs."""
    if missing := [name for name in WALLPAPER_NAMES if not (wallpapers / name).is_file()]:
        sys.exit(f"{wallpapers / missing[0]} is missing: install gnome-backgrounds 43, or give --wallpapers")
    found: dict[str, Pixels] = {}
    for name in WALLPAPER_NAMES:
        with Image.open(wallpapers / name) as opened:
            found[name] = np.asarray(opened.convert("RGB").reduce(4))
    for name in PHOTOGRAPH_NAMES:
        pixels = np.asarray(getattr(skimage.data, name)())
        found[name] = np.ascontiguousarray(pixels[..., :3] if pixels.ndim == 3 else np.stack([pixels] * 3, axis=-1))
    return found


def part_of(photograph: Pixels, split: str) -> Pixels:
    """The right of a photograph for test images, what is left of it for training: no place is in both."""
    border = round(photograph.shape[1] * (1 - TEST_SHARE))
    return photograph[:, :border] if split == "train" else photograph[:, border:]
