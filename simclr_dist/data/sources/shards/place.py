"""What a place of shards is asked."""

from collections.abc import Iterator
from typing import NamedTuple, Protocol


class Stamp(NamedTuple):
    """What tells that a shard was replaced."""

    size: int
    mark: str
    """ETag, else the time of its last change; "": the server says neither."""


class Store(Protocol):
    """Files below one place."""

    root: str

    def stamp(self, name: str) -> Stamp:
        """Asked now.

        Raises:
            UserError: it is not there, or the server does not answer.
        """

    def content(self, name: str, size: int) -> Iterator[bytes]:
        """The bytes from the first to the last, in parts.

        Raises:
            UserError: it is not there, the server does not answer, or they are not ``size``.
        """


def is_remote(place: str) -> bool:
    """Whether a place is a URL of a server."""
    return "://" in place and not place.startswith("file://")
