"""The members of a tar file, read once from its beginning to its end.

Python's tarfile takes 66 us a member; with 10 million that is what an index pass waits for. The formats: POSIX.1-1988
(ustar), POSIX.1-2001 (pax: ``path`` and ``size`` of its records), GNU's long names and base-256 numbers.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple, Protocol

BLOCK = 512
_REGULAR = (b"0", b"\0", b"7")
_LONG_HEADER_BYTES = 1 << 20
_PAX_RECORD = re.compile(rb"(\d+) ([^=]+)=")


class TarError(Exception):
    """A tar file that would be read wrongly; the message says why."""


class Reader(Protocol):
    """What gives the bytes of a file one after another."""

    def read(self, count: int) -> bytes:
        """The next bytes: ``count``, fewer at the end."""


class Member(NamedTuple):
    """A file in a tar."""

    name: bytes
    offset: int
    """Of its first byte."""
    size: int


def members(reader: Reader, position: "Position") -> Iterator[Member]:
    """The regular files in a tar; whoever takes one may read its bytes from ``reader``, through ``position.take``.

    Raises:
        TarError: it is none, is compressed, cut, or another tar follows its end.
    """
    pax: dict[bytes, bytes] = {}
    long_name: bytes | None = None
    while True:
        header = position.take(reader, BLOCK)
        if header.count(0) == BLOCK:
            return _refuse_another(reader)
        name, size, kind = _parsed(header, position.at == BLOCK)
        if kind in (b"x", b"L", b"g", b"K"):
            if size > _LONG_HEADER_BYTES:
                raise TarError(f"a header of {size} bytes")
            content = position.take(reader, size)
            position.skip(reader, -size % BLOCK)
            if kind == b"x":
                pax = _records(content)
            elif kind == b"L":
                long_name = content.rstrip(b"\0")
            continue
        name = pax.get(b"path", long_name if long_name is not None else name)
        size = int(pax.get(b"size", size))
        if kind == b"S" or b"GNU.sparse.major" in pax or b"GNU.sparse.map" in pax:
            raise TarError(f"{name.decode(errors='replace')} is stored as a sparse file; make the tar without --sparse")
        pax, long_name = {}, None
        start = position.at
        if kind in _REGULAR and not name.endswith(b"/"):
            yield Member(name, start, size)
        # Links and devices have a size at times, and no bytes.
        end = start + (size + -size % BLOCK if kind in _REGULAR else 0)
        position.skip(reader, end - position.at)


class Position:
    """How far a tar has been read."""

    def __init__(self) -> None:
        self.at = 0

    def take(self, reader: Reader, count: int) -> bytes:
        """The next bytes.

        Raises:
            TarError: there are fewer.
        """
        content = reader.read(count)
        self.at += len(content)
        if len(content) != count:
            raise TarError("is cut: it ends without tar's end mark" if self.at else "is empty")
        return content

    def skip(self, reader: Reader, count: int) -> None:
        """Pass over the next bytes."""
        while count > 0:
            count -= len(self.take(reader, min(count, 1 << 20)))


def _parsed(header: bytes, is_first: bool) -> tuple[bytes, int, bytes]:
    """Name, size and type of a header."""
    try:
        stored = int(header[148:156].strip(b" \0") or b"0", 8)
    except ValueError:
        stored = -1
    if sum(header) - sum(header[148:156]) + 256 != stored:
        if is_first:
            packed = header[:2] == b"\x1f\x8b" or header[:4] in (b"BZh9", b"\xfd7zX", b"\x28\xb5\x2f\xfd")
            raise TarError("is compressed: unpack it to a plain .tar" if packed else "is no tar file")
        raise TarError("is damaged: a header's checksum is wrong")
    name = header[:100].split(b"\0", 1)[0]
    if header[257:263] == b"ustar\0" and (prefix := header[345:500].split(b"\0", 1)[0]):
        name = prefix + b"/" + name
    return name, _number(header[124:136]), header[156:157]


def _number(field: bytes) -> int:
    if field[0] & 0x80:
        return int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
    try:
        return int(field.strip(b" \0") or b"0", 8)
    except ValueError:
        raise TarError("is damaged: a member's size is no number") from None


def _records(content: bytes) -> dict[bytes, bytes]:
    """The records of a pax header, ``LENGTH KEY=VALUE\\n``."""
    found, at = {}, 0
    while record := _PAX_RECORD.match(content, at):
        end = at + int(record[1])
        found[record[2]] = content[record.end() : end - 1]
        at = max(end, record.end())
    return found


def _refuse_another(reader: Reader) -> None:
    while rest := reader.read(1 << 20):
        if rest.count(0) != len(rest):
            raise TarError("has something behind its end, another tar perhaps: join tars with tar --concatenate")
