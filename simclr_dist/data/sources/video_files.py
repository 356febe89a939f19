"""A video file through PyAV: where its frames are, and the frame of a moment; the extra ``video`` has PyAV.

A file is read through once, without decoding, for the times of its frames; a frame is then found from the key frame
before it. PyAV has FFmpeg's libraries in its wheel.

The pixels of a frame are the same whatever was read before it, of a damaged file too. What FFmpeg puts in a damaged
place depends on all that the same decoder has had: so each begins at one key frame, and goes on only to frames which
a new one would begin at that key frame for, with as many frames held. Where a container seeks to the middle of a frame
(MPEG-PS), FFmpeg gives the first frames the times of later ones: so decoding begins at a packet that is known.
"""

import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
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
_TRIES = 3
"""Key frames at which decoding is tried to begin, from the nearest back, before the file's beginning."""
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
    sizes: Numbers
    """Bytes of each of these: one that is found by seeking is known by them."""


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
        self._starts: dict[int, int] = {}  # key frame -> the one at which decoding begins for frames behind it
        self._container: Any = None
        self._frames: Iterator[Any] = iter(())
        self._start = -1
        self._held: Any = None  # the last frame, and no other: a decoder writes into memory that nobody holds

    def frame(self, moment: int) -> NDArray[np.uint8]:
        """The frame of a moment, (height, width, 3).

        Raises:
            ValueError: the decoder gives none.
            FFmpegError: it fails.
        """
        key = max(0, int(np.searchsorted(self._index.keys, moment, side="right")) - 1)
        is_ahead = self._held is not None and self._held.pts is not None and self._held.pts < moment
        # Not found on the way, it may have come before the one that is held.
        if not (is_ahead and self._starts.get(key) == self._start and self._found(moment)):
            self._begin(key)
            if not self._found(moment):
                raise ValueError("the decoder gives no such frame")
        pixels: NDArray[np.uint8] = self._held.to_ndarray(format="rgb24")
        return pixels

    def _begin(self, key: int) -> None:
        """At that key frame; where it cannot be found or decoded from, at one before it or the file's beginning."""
        import av

        first = self._starts.get(key, key)
        for start in range(first, max(0, first - _TRIES), -1):
            try:
                if self._begun_at(start):
                    self._starts[key] = self._start = start
                    return
            except av.FFmpegError as error:
                if is_machines_fault(error):
                    raise
        self._open(self._decoded(None))
        self._starts[key] = self._start = 0

    def _begun_at(self, start: int) -> bool:
        """Whether the first frame that is given of those from there on is the key frame itself."""
        moment = int(self._index.keys[start])
        self._open(self._decoded(start))
        self._container.seek(int(self._index.seeks[start]), stream=self._container.streams.video[0])
        for frame in self._frames:
            self._held = frame
            if frame.pts is not None and frame.pts >= moment:
                self._frames = chain([frame], self._frames)
                return bool(frame.pts == moment)
        return False

    def _open(self, frames: Iterator[Any]) -> None:
        """With a new decoder: an old one's memory is not empty, even when it has been flushed."""
        self._held, self._start = None, -1
        if self._container is not None:
            self._container.close()
        self._container, self._frames = _opened(self._path), frames

    def _decoded(self, start: int | None) -> Iterator[Any]:
        """The frames from the packet of that key frame on; None: from where the file stands."""
        known = None if start is None else (int(self._index.keys[start]), int(self._index.sizes[start]))
        is_there = known is None
        for packet in self._container.demux(self._container.streams.video[0]):
            is_there = is_there or (_moment_of(packet), packet.size) == known
            if is_there:
                yield from packet.decode()

    def _found(self, moment: int) -> bool:
        """Whether the frame of that moment comes; it is then the one that is held."""
        beyond = 0
        for frame in self._frames:
            self._held = frame
            if frame.pts is None:
                continue
            if frame.pts == moment:
                return True
            beyond += frame.pts > moment
            if beyond > _BEYOND:
                break
        return False


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

    moments, keys = set(), dict[int, tuple[int, int]]()
    try:
        with av.open(os.path.join(root, name)) as container:
            for packet in container.demux(container.streams.video[0]):
                moment = _moment_of(packet)
                if moment is None or packet.is_discard:
                    continue
                moments.add(moment)
                if packet.is_keyframe:
                    keys[moment] = (moment if packet.dts is None else min(moment, packet.dts), packet.size)
    except (av.FFmpegError, IndexError) as error:
        refuse_machines_fault(error, name)
    if not moments:
        return None
    ordered = np.array(sorted(moments), dtype=np.int64)
    keys = keys or {int(ordered[0]): (int(ordered[0]), 0)}
    return VideoIndex(ordered, *np.array([(key, *where) for key, where in sorted(keys.items())], dtype=np.int64).T)


def _moment_of(packet: Any) -> int | None:
    moment: int | None = packet.dts if packet.pts is None else packet.pts
    return moment


def is_machines_fault(error: Exception) -> bool:
    """Whether the storage or this machine failed, and not the file."""
    return getattr(error, "errno", None) in _OF_THE_MACHINE


def refuse_machines_fault(error: Exception, name: str) -> None:
    """Raises UserError where the storage or this machine failed, and not the file."""
    if is_machines_fault(error):
        raise UserError(
            f"{printable(name)}: cannot be read: {reason_of(error)}; the storage or this machine fails, not the video: "
            "start again when it is mended"
        ) from error
