"""Which tar files are meant: files, folders and URLs of some, patterns; the root of all and their names below it."""

import glob
import os
import re
from collections.abc import Iterator, Sequence
from itertools import product

from simclr_dist.data.sources.shards.place import is_remote
from simclr_dist.data.sources.walking import walk_once
from simclr_dist.errors import UserError
from simclr_dist.terminal import printable

_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")


def find_shards(places: Sequence[str], wait_seconds: float) -> tuple[str, list[str]]:
    """The root of some shards and their names below it, in order.

    Args:
        places: tar files, folders or URLs of folders that hold some at any depth, patterns (``*``, and ``{000..146}``).
        wait_seconds: how long a server is waited for.

    Raises:
        UserError: there are none, they are not of one root, or a server does not answer.
    """
    found: set[str] = set()
    for place in (one for given in places for one in _expanded(given.removeprefix("file://"))):
        if is_remote(place):
            found.update(_below_url(place, wait_seconds))
        else:
            found.update(_below(place))
    if len({place.partition("://")[0] if is_remote(place) else "" for place in found}) > 1:
        raise UserError("shards of one index must be in one place: all on disks, or all on one server")
    if not found:
        raise UserError(f"{printable(' '.join(places))}: no .tar files there; give tar files or a folder of them")
    if is_remote(next(iter(found))):
        root = _common_url({place.rpartition("/")[0] for place in found})
        return root, sorted(place[len(root) + 1 :] for place in found)
    root = os.path.commonpath({os.path.dirname(place) for place in found})
    return root, sorted(os.path.relpath(place, root) for place in found)


def _expanded(place: str) -> list[str]:
    """A place for each choice of its braces: ``{000..146}`` and ``{a,b}``."""
    pieces = _BRACES.split(place)
    choices = [[piece] if number % 2 == 0 else _choices(piece) for number, piece in enumerate(pieces)]
    return ["".join(chosen) for chosen in product(*choices)]


def _choices(inner: str) -> list[str]:
    if not (numbers := _RANGE.fullmatch(inner)):
        return inner.split(",")
    width = len(numbers[1])
    return [f"{number:0{width}}" for number in range(int(numbers[1]), int(numbers[2]) + 1)]


def _below(place: str) -> Iterator[str]:
    for path in sorted(glob.glob(os.path.expanduser(place))) if glob.has_magic(place) else [os.path.expanduser(place)]:
        full = os.path.abspath(path)
        if os.path.isdir(full):
            for folder, _, files in walk_once(full, "SHARDS"):
                yield from (os.path.join(folder, name) for name in files if name.endswith(".tar"))
        elif os.path.exists(full):
            yield full
        else:
            raise UserError(f"{printable(path)}: no such file or folder; give tar files or a folder of them")


def _below_url(place: str, wait_seconds: float) -> Iterator[str]:
    if place.endswith(".tar") and "*" not in place:
        yield place
        return
    from simclr_dist.data.sources.shards.remote import RemoteStore

    folder, pattern = place.rstrip("/"), "*"
    if "*" in place:
        folder, _, pattern = place.rpartition("/")
    for name in RemoteStore(folder, wait_seconds).find():
        if name.endswith(".tar") and re.fullmatch(re.escape(pattern).replace(r"\*", ".*"), name):
            yield f"{folder}/{name}"


def _common_url(folders: set[str]) -> str:
    parts = [folder.split("/") for folder in folders]
    same = 0
    while len({tuple(each[: same + 1]) for each in parts}) == 1 and same < min(map(len, parts)):
        same += 1
    if same > 2:
        return "/".join(parts[0][:same])
    raise UserError("shards of one index must be on one server; give one index to each")
