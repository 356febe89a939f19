"""Which files below a folder are images of the set, which of its folders are splits, and what is left out and why."""

import hashlib
import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from simclr_dist.data.sources.walking import unlisted, walk_once
from simclr_dist.errors import UserError
from simclr_dist.terminal import printable

IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".jfi", ".png", ".apng", ".gif", ".bmp", ".dib", ".webp", ".tif", ".tiff",
    ".ppm", ".pgm", ".pbm", ".pnm", ".pfm",
)  # fmt: skip
HELD_OUT_OF = 5
"""Of so many images of a class one is held out, where a folder has no splits of its own."""
_SHOWN = 3

# What systems and programs keep among a user's files: copies, thumbnails, what was thrown away. Beside these, all
# names that begin with a dot.
_SYSTEM = frozenset((
    "__macosx", "@eadir", "@tmp", "@recycle", "@recently-snapshot", "@sharebin", "#recycle", "#snapshot", "~snapshot",
    "$recycle.bin", "recycler", "recycled", "system volume information", "lost+found", "network trash folder",
    "temporary items", "__pycache__",
))  # fmt: skip
_TRAIN = ("train", "training")
# The first that is there is the held-out split, as papers report on test images where there are any.
_HELD_OUT = (
    "test", "testing", "val", "valid", "validation", "dev", "holdout", "hold-out", "heldout", "held-out", "eval",
    "evaluation",
)  # fmt: skip
_AFFIXES = re.compile(
    r"^(?:(?:images?|imgs?|data|seg)[ _.-]*)?(.+?)(?:[ _.-]*(?:images?|imgs?|set|data|split|\d{4}))?$"
)


def is_foreign(name: str) -> bool:
    """Whether a file or folder of this name is hidden or a system's, and so holds no image of a set."""
    return name.startswith(".") or name.lower() in _SYSTEM


@dataclass
class FoundImages:
    """The images below a folder."""

    names: list[str] = field(default_factory=list)
    """Paths below it, sorted."""
    foreign: list[str] = field(default_factory=list)
    """Hidden files with an image's suffix, and folders that were not entered."""
    others: Counter[str] = field(default_factory=Counter)
    """Suffix -> number of files that are read as no image."""

    def left_out(self) -> list[str]:
        """In words, what was passed over and why."""
        found = [f"{some_of(self.foreign)}: hidden or a system's"] if self.foreign else []
        if self.others:
            kinds = ", ".join(f"{count:,} {printable(suffix)}" for suffix, count in self.others.most_common(2 * _SHOWN))
            more = len(self.others) - 2 * _SHOWN
            found.append(f"{kinds}{f' and {more} more kinds' if more > 0 else ''}: no image's suffix")
        return found


def some_of(names: Sequence[str]) -> str:
    """The first names, printable, and how many more there are."""
    shown = ", ".join(printable(name) for name in names[:_SHOWN])
    return f"{shown} and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else shown


def find_images(root: Path, besides: Collection[str] = (), suffixes: tuple[str, ...] = IMAGE_SUFFIXES) -> FoundImages:
    """All image files (by ``suffixes``) at any depth below ``root``, folders directly in it named in ``besides`` apart.

    Links are followed, but no folder twice.

    Raises:
        UserError: a folder cannot be listed: which images the set has would depend on who asks.
    """
    found = FoundImages()
    for folder, folders, files in walk_once(root, "recipe.data.path"):
        inside = os.path.relpath(folder, root)
        found.foreign += [os.path.normpath(f"{inside}/{name}/") + "/" for name in folders if is_foreign(name)]
        folders[:] = sorted(
            name for name in folders if not is_foreign(name) and not (inside == "." and name in besides)
        )
        for name in files:
            is_image, path = name.lower().endswith(suffixes), os.path.normpath(os.path.join(inside, name))
            if is_foreign(name):
                found.foreign += [path] if is_image else []
            elif is_image:
                found.names.append(path)
            else:
                found.others[os.path.splitext(name)[1].lower() or "without suffix"] += 1
    found.names.sort()
    found.foreign.sort()
    return found


class Splits(NamedTuple):
    """Which folders of a folder are its splits."""

    train: Path
    """Of what is trained on: the folder itself where it has none."""
    held_out: Path | None
    besides: tuple[str, ...]
    """Folders directly in ``train`` that are no class of it."""
    left_out: tuple[str, ...]
    """Folders beside the two splits."""


def splits_of(root: Path) -> Splits:
    """The splits of a folder by the usual names, in capitals or not, with `images`, `set` or a year beside them.

    Raises:
        UserError: it cannot be listed, or two folders may be the training images.
    """
    try:
        folders = sorted(
            entry.name for entry in os.scandir(root) if os.path.isdir(entry) and not is_foreign(entry.name)
        )
    except OSError as error:
        raise unlisted(error, "recipe.data.path") from error
    train = _ranked(folders, _TRAIN)
    held_out = _ranked(folders, _HELD_OUT)
    if len(train) > 1 and train[0][0] == train[1][0]:
        raise UserError(
            f"recipe.data.path: {printable(str(root))}: its folders {printable(train[0][1])} and "
            f"{printable(train[1][1])} may both be the training images; put them into one, or give the path of one"
        )
    test = root / held_out[0][1] if held_out else None
    if not train:
        names = tuple(name for _, name in held_out)
        return Splits(root, test, names, names[1:])
    kept = (train[0][1], held_out[0][1] if held_out else "")
    return Splits(root / train[0][1], test, (), tuple(name for name in folders if name not in kept))


def by_hash(names: Iterable[str]) -> list[str]:
    """Names by their SHA-256, smallest first: an order that is the same wherever the files lie, whoever lists them."""
    return sorted(names, key=lambda name: hashlib.sha256(os.fsencode(name)).digest())


def halves_by_name(names: Sequence[str], *, of_each_class: bool = True) -> tuple[list[str], list[str]]:
    """(train, test) of the images of a folder without splits: of each class (its first folder), or of all at once,
    those whose names have the smallest SHA-256, one of HELD_OUT_OF and at least one where there are two. The same
    wherever the folder lies.
    """
    classes: dict[str, list[str]] = {}
    for name in names:
        classes.setdefault(name.partition("/")[0] if of_each_class else "", []).append(name)
    held_out: set[str] = set()
    for members in classes.values():
        share = len(members) / HELD_OUT_OF
        count = max(1, round(share) if of_each_class else int(share)) if len(members) > 1 else 0
        held_out.update(by_hash(members)[:count])
    return [name for name in names if name not in held_out], [name for name in names if name in held_out]


def part_by_name(names: Sequence[str], split: str, *, of_each_class: bool = True) -> tuple[list[str], str]:
    """The images of a split of a folder without any, and what is said of it.

    Pretraining that is shown what evaluation asks for, labels or masks, takes its own so, and sees no test image.
    """
    each = " of each class" if of_each_class else ""
    remark = f"split by the hash of the names: one image of {HELD_OUT_OF}{each} is a test image"
    return halves_by_name(names, of_each_class=of_each_class)[split == "test"], remark


def _ranked(folders: Sequence[str], words: tuple[str, ...]) -> list[tuple[int, str]]:
    """(rank, name) of the folders named by one of ``words``, plain names first."""
    found = []
    for name in folders:
        plain = re.sub(r"[ _.-]+", "-", name.lower())
        match = _AFFIXES.match(name.lower())
        if plain in words:
            found.append((words.index(plain), name))
        elif match and match[1] in words:
            found.append((len(words) + words.index(match[1]), name))
    return sorted(found)
