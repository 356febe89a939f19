"""Data sets through torchvision's own readers, whose errors are told in one line."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from simclr_dist.errors import UserError, first_line

Read = TypeVar("Read")


def through_torchvision(read: Callable[[], Read], name: str, path: Path) -> Read:
    """What ``read`` makes of the files of the set ``name`` in the folder ``path``.

    Raises:
        UserError: there is no such folder, or torchvision cannot read them.
    """
    require_folder(path, name)
    try:
        return read()
    except Exception as error:  # torchvision raises what its parsers meet: RuntimeError, KeyError, EOFError, pickle's
        is_plain = (path / "train").is_dir() and name == "ImageNet"
        instead = "; class folders below train/ and val/ are read with recipe.data.source=folder" if is_plain else ""
        raise UserError(
            f"recipe.data.path: torchvision cannot read {name} in {path}: {first_line(error)} "
            f"(the files must be there as torchvision downloads them{instead})"
        ) from error


def require_folder(path: Path, source: str) -> None:
    """Refuse a path that is no folder.

    Raises:
        UserError: naming the path and what should be there.
    """
    if not path.is_dir():
        raise UserError(
            f"recipe.data.path: {path} is not a folder; give the folder of the {source + ' ' if source else ''}images"
        )
