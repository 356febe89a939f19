"""Source ``videos``: every frame of every video file below a folder, decoded by PyAV where it lies."""

import hashlib
import os
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from simclr_dist.data.sources.base import BrokenImageError
from simclr_dist.data.sources.files import reason_of
from simclr_dist.data.sources.folders import find_images, some_of, splits_of
from simclr_dist.data.sources.frames import camera_of, numbered_times, part_of, sequences_in_words
from simclr_dist.data.sources.identity import FileStates
from simclr_dist.data.sources.pixels import PixelRule
from simclr_dist.data.sources.torchvision_readers import require_folder
from simclr_dist.data.sources.video_files import VideoDecoder, index_of, refuse_machines_fault, require_av
from simclr_dist.errors import UserError
from simclr_dist.terminal import printable

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".ogv", ".ts")
_OPEN = 8
"""Files that a process holds open."""


class VideoFrames:
    """Frames of video files; sample ids go through the files by name, and through each in time."""

    labels: NDArray[np.int64] | None = None

    def __init__(self, root: Path, names: Sequence[str], remarks: Sequence[str] = ()) -> None:
        """``names`` are paths below ``root``.

        Raises:
            UserError: PyAV is missing, none of the files has frames, two are one camera's of one sequence, or one
                cannot be read because of the storage.
        """
        self.root, self.classes = root, list[str]()
        read = {name: index_of(root, name) for name in names}
        self.names = [name for name, index in read.items() if index]
        if not self.names:
            raise UserError(f"recipe.data.path: no video below {printable(str(root))} can be read: {some_of(names)}")
        self._indexes = [index for index in read.values() if index]
        self._begins = np.cumsum([0, *(len(index.moments) for index in self._indexes)])
        keys, files = [], dict[tuple[str, int], str]()
        for name, index in zip(self.names, self._indexes, strict=True):
            sequence, camera = camera_of(os.path.splitext(name)[0])
            if (other := files.setdefault((sequence, camera), name)) != name:
                raise UserError(
                    f"recipe.data.path: {printable(other)} and {printable(name)} are both camera {camera} of one "
                    "sequence; move or rename one of them"
                )
            keys += [((sequence,), camera, number) for number in range(len(index.moments))]
        self.times = numbered_times(keys)
        unread = [name for name, index in read.items() if not index]
        left_out = [f"left out: {some_of(unread)}: no video that can be read"] if unread else []
        self.remarks = (*remarks, sequences_in_words(self.times), *left_out)
        self._process, self._open = 0, OrderedDict[int, VideoDecoder]()

    def __len__(self) -> int:
        return int(self._begins[-1])

    def name(self, sample: int) -> str:
        """The video, and the number of the frame in it."""
        file, number = self._place(sample)
        return f"{self.names[file]}:{number}"

    def read(self, sample: int) -> Tensor:
        """The frame as uint8 (3, height, width), as it is stored: no rotation that a file asks of players is applied.

        Raises:
            BrokenImageError: it cannot be decoded.
            UserError: it cannot be read because of the storage or this machine.
        """
        import av

        file, number = self._place(sample)
        try:
            pixels = self._decoder(file).frame(int(self._indexes[file].moments[number]))
        except (av.FFmpegError, ValueError, EOFError) as error:
            self._open.pop(file, None)
            refuse_machines_fault(error, self.names[file])
            raise BrokenImageError(f"{printable(self.name(sample))}: {reason_of(error)}") from error
        return torch.from_numpy(pixels).permute(2, 0, 1)

    def fingerprint(self) -> str:
        """Of names, numbers of frames, and sizes: a copy has the same.

        Raises:
            UserError: the file system does not answer.
        """
        return hashlib.sha256(self.names_fingerprint().encode() + self.states().sizes.tobytes()).hexdigest()

    def names_fingerprint(self) -> str:
        """Of the names and numbers of frames alone."""
        parts = [f"{name}\0{len(index.moments)}" for name, index in zip(self.names, self._indexes, strict=True)]
        return hashlib.sha256("\0".join(parts).encode(errors="surrogateescape")).hexdigest()

    def states(self) -> FileStates:
        """Sizes and times of the video files, asked now.

        Raises:
            UserError: the file system does not answer.
        """
        return FileStates.of(self.root, self.names)

    def _place(self, sample: int) -> tuple[int, int]:
        file = int(np.searchsorted(self._begins, sample, side="right")) - 1
        return file, sample - int(self._begins[file])

    def _decoder(self, file: int) -> "VideoDecoder":
        if self._process != os.getpid():  # a loader worker: the open files, and their places, are its parent's
            self._process, self._open = os.getpid(), OrderedDict()
        if file not in self._open:
            self._open[file] = VideoDecoder(os.path.join(self.root, self.names[file]), self._indexes[file])
        self._open.move_to_end(file)
        if len(self._open) > _OPEN:
            self._open.popitem(last=False)
        return self._open[file]


def open_videos(path: Path, split: str, _: PixelRule) -> VideoFrames:
    """All frames of the videos below a folder, at any depth; a file is a sequence, NAME_view0.mp4 one of its cameras.

    Raises:
        UserError: as ``open_frames``, and where PyAV is missing.
    """
    require_folder(path, "")
    require_av()
    root, besides, remarks = part_of(splits_of(path), path, split)
    found = find_images(root, besides, VIDEO_SUFFIXES)
    left_out = found.left_out()
    if not found.names:
        said = f"; left out: {', '.join(left_out)}" if left_out else ""
        raise UserError(
            f"recipe.data.path: no videos in {printable(str(root))} (looked for {', '.join(VIDEO_SUFFIXES)}{said})"
        )
    return VideoFrames(root, found.names, [*remarks, *([f"left out: {', '.join(left_out)}"] if left_out else [])])
