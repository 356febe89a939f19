"""Source ``frames``: numbered image files, a folder a sequence, cameras by the names of the folders."""

import os
import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from simclr_dist.data.sources.files import FileSource
from simclr_dist.data.sources.folders import IMAGE_SUFFIXES, Splits, find_images, some_of, splits_of
from simclr_dist.data.sources.pixels import PixelRule
from simclr_dist.data.sources.times import FrameTimes
from simclr_dist.data.sources.torchvision_readers import require_folder
from simclr_dist.errors import UserError
from simclr_dist.terminal import printable

_NUMBERED = re.compile(r"(.*?)(\d+)(\D*)")
_CAMERA = re.compile(r"(?:(.+)[ _.-])?(?:view|camera|cam)[ _.-]?(\d+)", re.IGNORECASE)
_MOST_DIGITS = 18  # of an int64


class FrameFiles(FileSource):
    """Image files with their times."""

    def __init__(
        self,
        root: Path,
        names: list[str],
        times: FrameTimes,
        rule: PixelRule | None = None,
        remarks: Sequence[str] = (),
    ) -> None:
        super().__init__(root, names, None, [], rule, remarks)
        self.times = times


def open_frames(path: Path, split: str, rule: PixelRule) -> FrameFiles:
    """Every numbered image below a folder, at any depth, by sequence, camera and number.

    The number of a frame is the last digits of its name. What stands before and behind them, and the folder, is the
    sequence; a folder NAME_view0, NAME_cam1, or view0 in NAME, is a camera of the sequence NAME. Where a folder of the
    usual names is held out, pretraining does not see it; without one there are no test frames.

    Raises:
        UserError: there are none, two have one place, or the test frames are asked for and there are none.
    """
    require_folder(path, "")
    root, besides, remarks = part_of(splits_of(path), path, split)
    found = find_images(root, besides)
    numbered = {name: key for name in found.names if (key := _key(name))}
    left_out = found.left_out()
    if without := [name for name in found.names if name not in numbered]:
        left_out.append(f"{some_of(without)}: without a number in the name")
    if not numbered:
        said = f"; left out: {', '.join(left_out)}" if left_out else ""
        raise UserError(
            f"recipe.data.path: no numbered images in {printable(str(root))} (looked for "
            f"{', '.join(IMAGE_SUFFIXES)}{said})"
        )
    names = sorted(numbered, key=lambda name: numbered[name])
    for one, other in pairwise(names):
        if numbered[one] == numbered[other]:
            raise UserError(
                f"recipe.data.path: {printable(one)} and {printable(other)} are both frame {numbered[one][2]} of one "
                "sequence and camera; move one of them away"
            )
    times = numbered_times([numbered[name] for name in names])
    remarks += [sequences_in_words(times), *([f"left out: {', '.join(left_out)}"] if left_out else [])]
    return FrameFiles(root, names, times, rule, remarks)


def part_of(splits: Splits, path: Path, split: str) -> tuple[Path, tuple[str, ...], list[str]]:
    """(folder of a split, folders in it that are not of it, what to say of the held-out one).

    Raises:
        UserError: none is held out, and that is asked for.
    """
    if split != "test":
        held_out = [f"held out: {printable(splits.held_out.name)}/"] if splits.held_out else []
        return splits.train, splits.besides, held_out
    if splits.held_out is None:
        raise UserError(
            f"recipe.data.path: {printable(str(path))} holds no sequences out: frames of one are too much alike to be "
            "split; put some sequences into a folder test/ beside train/"
        )
    return splits.held_out, (), []


def camera_of(folder: str) -> tuple[str, int]:
    """(sequence, camera) of the path of a folder, or of a video without its suffix."""
    before, last = os.path.split(folder)
    if not (match := _CAMERA.fullmatch(last)):
        return folder, 0
    return os.path.join(before, match[1] or ""), int(match[2])


def numbered_times(keys: Sequence[tuple[tuple[str, ...], int, int]]) -> FrameTimes:
    """Of (name of the sequence, camera, frame number), one a sample; sequences are numbered by their names."""
    number = {name: place for place, name in enumerate(sorted({key[0] for key in keys}))}
    columns = [(number[name], frame, camera) for name, camera, frame in keys]
    return FrameTimes(*np.array(columns, dtype=np.int64).reshape(-1, 3).T.copy())


def sequences_in_words(times: FrameTimes) -> str:
    """How many sequences, and of how many cameras."""
    pairs = {(int(one), int(other)) for one, other in zip(times.sequence, times.camera, strict=True)}
    cameras = Counter(sequence for sequence, _ in pairs)
    several = sum(count > 1 for count in cameras.values())
    said = f"{len(cameras):,} sequence{'s' if len(cameras) != 1 else ''}"
    return f"{said}, {several:,} of several cameras" if several else said


def _key(name: str) -> tuple[tuple[str, ...], int, int] | None:
    folder, file = os.path.split(name)
    match = _NUMBERED.fullmatch(os.path.splitext(file)[0])
    if not match or len(match[2]) > _MOST_DIGITS:
        return None
    sequence, camera = camera_of(folder)
    return (sequence, match[1], match[3]), camera, int(match[2])
