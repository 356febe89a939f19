"""All folders below one, through links, each once."""

import os
from collections.abc import Iterator

from simclr_dist.data.sources.files import reason_of
from simclr_dist.errors import UserError
from simclr_dist.terminal import printable


def walk_once(root: str | os.PathLike[str], asked: str) -> Iterator[tuple[str, list[str], list[str]]]:
    """As os.walk: (folder, its folders, its files); those that are taken off the list of folders are not entered.

    Links are followed, but no folder is entered twice: nothing in it must be found twice. Folders that stand below
    ``root`` themselves come first: where a link leads to one, it keeps the name, and so the class, of its own place.
    ``asked``: the key or argument that names ``root``, for what is said.

    Raises:
        UserError: a folder cannot be listed: what is found would depend on who asks.
    """

    def refuse(error: OSError) -> None:
        raise unlisted(error, asked) from error

    seen, ways = set(), [os.fspath(root)]
    for way in ways:  # which grow meanwhile
        for folder, folders, files in os.walk(way, onerror=refuse):
            real = os.path.realpath(folder)
            if real in seen:  # a link to a folder above, or a second way to one
                folders.clear()
                continue
            seen.add(real)
            folders.sort()  # not as the file system has them: of two links to a folder the first is taken
            yield folder, folders, files
            ways += [path for name in folders if os.path.islink(path := os.path.join(folder, name))]


def unlisted(error: OSError, asked: str) -> UserError:
    """What to raise for a folder that cannot be listed."""
    return UserError(
        f"{asked}: {printable(error.filename)} cannot be listed: {reason_of(error)}; make it readable, or move it out "
        "of the folder of the others"
    )
