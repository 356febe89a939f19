"""A video file through PyAV: where its frames are, and the frame of a moment; the extra ``video`` has PyAV.

A file is read through once, without decoding, for the times of its frames; a frame is then found from the key frame
before it. PyAV has FFmpeg's libraries in its wheel.
"""

import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simclr_dist.data.sources.files import reason_of
from simclr_dist.data.sources.times import Numbers
from simclr_dist.errors import UserError
from simclr_dist.terminal import printable

_BEYOND = 16
"""Decoders may give the last frames of a file out of order, as far as this."""
# Said of this machine or its storage at this moment, and not of the file.
_OF_THE_MACHINE = (errno.EIO, errno.ESTALE, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ETIMEDOUT)


@dataclass(frozen=True)
class VideoIndex:
    """Of one file, in its own unit of time."""

    moments: Numbers
    """Of the frames, ascending."""
    keys: Numbers
    """Of the frames from which decoding can begin, ascending."""
    seeks: Numbers
    """Where to seek for each of these: some containers go by the time of decoding, which may be before."""


def require_av() -> None:
    """Refuse to begin without PyAV.

    Raises:
        UserError: saying how to get it.
    """
    try:
        import av  # noqa: F401
    except ImportError as error:
        raise UserError(
            "recipe.data.source: 'videos' needs the package av (PyAV), which is not installed: pip install "
            "'simclr_dist[video]', or write the frames as image files and take source 'frames'"
        ) from error


class VideoDecoder:
    """One open file and how far it is decoded."""

    def __init__(self, path: str, index: VideoIndex) -> None:
        self._path, self._index = path, index
        self._frames: Iterator[Any] = iter(())
        self._at: int | None = None
        self._container = _opened(path)

    def frame(self, moment: int) -> NDArray[np.uint8]:
        """The frame of a moment, (height, width, 3).

        Raises:
            ValueError: the decoder gives none.
            FFmpegError: it fails.
        """
        place = max(0, int(np.searchsorted(self._index.keys, moment, side="right")) - 1)
        found = None
        if self._at is not None and self._index.keys[place] <= self._at < moment:  # on the way there
            found = self._decoded_to(moment)
        if found is None and self._seek(int(self._index.seeks[place])):
            found = self._decoded_to(moment)
        if found is None:  # a container that cannot seek, or not exactly: from its beginning
            self._container.close()
            self._container = _opened(self._path)
            self._begin()
            found = self._decoded_to(moment)
        if found is None:
            raise ValueError("the decoder gives no such frame")
        pixels: NDArray[np.uint8] = found.to_ndarray(format="rgb24")
        return pixels

    def _seek(self, moment: int) -> bool:
        import av

        try:
            self._container.seek(moment, stream=self._container.streams.video[0])
        except av.FFmpegError:
            return False
        self._begin()
        return True

    def _begin(self) -> None:
        self._frames = self._container.decode(self._container.streams.video[0])

    def _decoded_to(self, moment: int) -> Any:
        beyond = 0
        for frame in self._frames:
            if frame.pts is None:
                continue
            self._at = frame.pts
            if frame.pts == moment:
                return frame
            beyond += frame.pts > moment
            if beyond > _BEYOND:
                break
        self._at = None
        return None


def _opened(path: str) -> Any:
    import av

    container = av.open(path)
    container.streams.video[0].codec_context.thread_count = 1  # loader workers are the parallel ones
    return container


def index_of(root: Path, name: str) -> VideoIndex | None:
    """Of the file ``name`` below ``root``; None: it is no video, or has no frame.

    Raises:
        UserError: it cannot be read because of the storage or this machine.
    """
    import av

    moments, keys = set(), dict[int, int]()
    try:
        with av.open(os.path.join(root, name)) as container:
            for packet in container.demux(container.streams.video[0]):
                moment = packet.dts if packet.pts is None else packet.pts
                if moment is None or packet.is_discard:
                    continue
                moments.add(moment)
                if packet.is_keyframe:
                    keys[moment] = moment if packet.dts is None else min(moment, packet.dts)
    except (av.FFmpegError, IndexError) as error:
        refuse_machines_fault(error, name)
    if not moments:
        return None
    ordered = np.array(sorted(moments), dtype=np.int64)
    keys = keys or {int(ordered[0]): int(ordered[0])}
    return VideoIndex(ordered, *np.array(sorted(keys.items()), dtype=np.int64).T)


def refuse_machines_fault(error: Exception, name: str) -> None:
    """Raises UserError where the storage or this machine failed, and not the file."""
    if getattr(error, "errno", None) in _OF_THE_MACHINE:
        raise UserError(
            f"{printable(name)}: cannot be read: {reason_of(error)}; the storage or this machine fails, not the video: "
            "start again when it is mended"
        ) from error
