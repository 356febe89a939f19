"""What a set of images is: enough to notice that files were replaced under their names, and to know a mere copy.

| | names | sizes | times |
| --- | --- | --- | --- |
| fingerprint, in results | yes | yes | |
| resuming a run | refused | refused, but for files that were emptied | said |
| kept features | yes | yes | yes: computed anew |

A copy has the names and sizes of its original and other times: it resumes, and its features are computed once more.
"""

import errno
import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simclr_dist.data.sources.base import ImageSource, Subset
from simclr_dist.storage.reading import cannot_be_read

_BLOCKS, _DIGITS = 256, 8
SIZES_LENGTH = _BLOCKS * _DIGITS
# What the system says of a file that is gone or not permitted: a broken image, whoever asks.
_OF_THE_FILE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EACCES, errno.EPERM)
_THREADS, _MANY = 16, 10_000


@dataclass(frozen=True)
class FileStates:
    """Of the files of a set, in its order; -1 for what is not there."""

    sizes: NDArray[np.int64]
    """Bytes, shape (files,)."""
    times: NDArray[np.int64]
    """Of the last change of contents and of status, nanoseconds, shape (files, 2). The second sees what was replaced by
    a file with the first's old time, too."""

    @classmethod
    def of(cls, root: Path, names: Sequence[str]) -> "FileStates":
        """Ask the file system about every file.

        Raises:
            UserError: it does not answer.
        """
        # Each question to a file server waits for its answer; many are asked at once.
        parts = _THREADS if len(names) > _MANY else 1
        bounds = [len(names) * part // parts for part in range(parts + 1)]
        with ThreadPoolExecutor(parts) as pool:
            found = pool.map(lambda part: _states(root, names[bounds[part] : bounds[part + 1]]), range(parts))
            states = np.concatenate(list(found))
        return cls(states[:, 0], states[:, 1:])

    def block_digests(self) -> str:
        """Digests of the sizes in blocks of consecutive files: SIZES_LENGTH hex digits."""
        return "".join(hashlib.sha256(block.tobytes()).hexdigest()[:_DIGITS] for block in _blocks(self.sizes))

    def differ_from(self, block_digests: str) -> bool:
        """Whether a file has another size than it had, blocks aside in which one is empty or gone now.

        A file that the disk has lost is replaced by an empty one, so that it counts as broken (docs/data.md).
        """
        now = self.block_digests()
        return any(
            now[at : at + _DIGITS] != block_digests[at : at + _DIGITS] and (block > 0).all()
            for at, block in zip(range(0, SIZES_LENGTH, _DIGITS), _blocks(self.sizes), strict=True)
        )

    def times_digest(self) -> str:
        """64 hex digits."""
        return hashlib.sha256(self.times.tobytes()).hexdigest()


def images_of(source: ImageSource) -> dict[str, Any]:
    """What a checkpoint knows of its images: ``count``, ``fingerprint`` (of names, where they are files), ``sizes`` and
    ``times``; texts of one length whatever the source.

    Raises:
        UserError: the file system does not answer.
    """
    known = blank_images(len(source)) | {"fingerprint": getattr(source, "names_fingerprint", source.fingerprint)()}
    if states := _states_of(source):
        known |= {"sizes": states.block_digests(), "times": states.times_digest()}
    return known


def blank_images(count: int) -> dict[str, Any]:
    """As :func:`images_of`, of ``count`` images that are not here."""
    return {"count": count, "fingerprint": "0" * 64, "sizes": "0" * SIZES_LENGTH, "times": "0" * 64}


def compare(then: dict[str, Any], now: dict[str, Any], source: ImageSource) -> tuple[str, str]:
    """(why ``source`` is another set than it was ``then``, what to say of it all the same); mostly both "".

    ``then`` and ``now`` are of :func:`images_of`; of what an earlier version kept, names alone are compared.

    Raises:
        UserError: the file system does not answer.
    """
    if (then.get("count"), then.get("fingerprint")) != (now["count"], now["fingerprint"]):
        return f"the images differ ({then.get('count')} there, {now['count']} here, or other ones)", ""
    states = _states_of(source)
    if states is None or "sizes" not in then:
        return "", ""
    if states.differ_from(then["sizes"]):
        return "images were replaced under the same names: their files have other sizes", ""
    same = then["times"] == now["times"]
    return "", "" if same else "the files of the images have other times and the same names and sizes: taken for a copy"


def contents_digest(source: ImageSource) -> str:
    """Text that changes whenever a file of the images was written or replaced, and with the fingerprint.

    Raises:
        UserError: the file system does not answer.
    """
    inner = source
    while isinstance(inner, Subset):
        inner = inner.source
    states = _states_of(inner)
    return f"{source.fingerprint()} {states.times_digest() if states else ''}"


def _states_of(source: ImageSource) -> FileStates | None:
    states = getattr(source, "states", None)
    return states() if states else None


def _blocks(sizes: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    return np.array_split(sizes.astype("<i8"), _BLOCKS)


def _states(root: Path, names: Sequence[str]) -> NDArray[np.int64]:
    found = np.full((len(names), 3), -1, dtype="<i8")
    for number, name in enumerate(names):
        path = os.path.join(root, name)
        try:
            facts = os.stat(path)
        except OSError as error:
            if error.errno not in _OF_THE_FILE:
                raise cannot_be_read(Path(path), error) from error
            continue
        found[number] = facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns
    return found
