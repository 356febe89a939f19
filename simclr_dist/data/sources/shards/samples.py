"""The samples of one shard: members of one key (webdataset's convention), of which one is the image."""

import hashlib
import json
import zlib
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from simclr_dist.data.sources.files import MAX_FILE_BYTES
from simclr_dist.data.sources.folders import IMAGE_SUFFIXES
from simclr_dist.data.sources.shards.tar import Member, Position, Reader, TarError, members

_JSON_KEYS = ("label", "cls", "class")
_LABEL_BYTES = 1 << 20
_READ_BYTES = 1 << 20
_CLASSES = 1 << 20
_SUFFIXES = tuple(suffix.encode() for suffix in IMAGE_SUFFIXES)
Label = int | str | None


@dataclass
class ShardSamples:
    """What is in a shard, in the order of its images."""

    names: list[bytes] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    crcs: list[int] = field(default_factory=list)
    labels: list[Label] = field(default_factory=list)
    left_out: int = 0
    """Keys without an image."""

    def __len__(self) -> int:
        return len(self.names)

    def digest(self) -> str:
        """Of names, lengths, checksums and labels: 64 hex digits, the same wherever the shard lies."""
        return self._digest(json.dumps([len(self), self.labels]), self.lengths, self.crcs)

    def layout_digest(self, size: int) -> str:
        """Of what a copy of the shard, of ``size`` bytes, must have in common with it to be read by this index."""
        return self._digest(str(size), self.offsets, self.lengths, self.crcs)

    def _digest(self, beginning: str, *columns: list[int]) -> str:
        found = hashlib.sha256(beginning.encode())
        for name in self.names:
            found.update(b"%d %b" % (len(name), name))
        for column in columns:
            found.update(as_column(column).tobytes())
        return found.hexdigest()


def as_column(values: list[int]) -> NDArray[np.int64]:
    """As numbers of one byte order."""
    return np.array(values, dtype="<i8")


def read_samples(reader: Reader, labels: str) -> ShardSamples:
    """The samples of a shard that is read from its beginning to its end.

    Args:
        reader: of the shard's bytes.
        labels: one of LABELS.

    Raises:
        TarError: the shard would be read wrongly, or has a name twice.
    """
    position, found = Position(), ShardSamples()
    place: dict[bytes, int] = {}  # key -> its image
    other: dict[bytes, dict[str, Label]] = {}  # key -> labels by where they stand
    seen: set[bytes] = set()
    for member in members(reader, position):
        folder, _, base = member.name.rpartition(b"/")
        stem, _, suffix = base.partition(b".")
        if not stem or member.size > MAX_FILE_BYTES:  # hidden: a Mac's ._x.jpg
            continue
        if member.name in seen:
            raise TarError(f"has the name {_shown(member.name)} twice; make the tar anew")
        seen.add(member.name)
        key, suffix = folder + b"/" + stem, suffix.lower()
        if b"." + suffix in _SUFFIXES:
            if key in place:
                raise TarError(f"has two images of one key, {_shown(member.name)} and another suffix")
            place[key] = len(found)
            found.names.append(member.name)
            found.offsets.append(member.offset)
            found.lengths.append(member.size)
            found.crcs.append(_crc(reader, position, member))
        elif suffix in (b"cls", b"json") and labels in ("auto", suffix.decode()):
            if member.size > _LABEL_BYTES:
                raise TarError(f"{_shown(member.name)}: a label of {member.size} bytes")
            content = position.take(reader, member.size)
            other.setdefault(key, {})[suffix.decode()] = _label(content, suffix.decode(), member)
        else:
            other.setdefault(key, {})
    found.left_out = len(other.keys() - place.keys())
    if labels == "folder":
        found.labels = [_first_folder(name) for name in found.names]
    else:
        known = (other.get(key, {}) for key in place)
        found.labels = [each.get("cls", each.get("json")) for each in known]
    return found


def _crc(reader: Reader, position: Position, member: Member) -> int:
    crc, left = 0, member.size
    while left:
        part = position.take(reader, min(left, _READ_BYTES))
        crc, left = zlib.crc32(part, crc), left - len(part)
    return crc


def _label(content: bytes, suffix: str, member: Member) -> Label:
    try:
        text = content.decode().strip()
        found = json.loads(text) if suffix == "json" else text
    except (ValueError, RecursionError):
        raise TarError(f"{_shown(member.name)}: is no {'JSON' if suffix == 'json' else 'text'}") from None
    if isinstance(found, dict):
        found = next((found[key] for key in _JSON_KEYS if key in found), None)
    if isinstance(found, str):
        return int(found) if found.isdecimal() and int(found) < _CLASSES else found or None
    return found if type(found) is int and 0 <= found < _CLASSES else None


def _first_folder(name: bytes) -> Label:
    parts = [part for part in name.split(b"/") if part not in (b"", b".")]
    return parts[0].decode(errors="surrogateescape") if len(parts) > 1 else None


def _shown(name: bytes) -> str:
    return name.decode(errors="replace")
