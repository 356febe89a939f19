"""Paths as a user writes them, and names of files, which may hold any bytes."""

from pathlib import Path

from simclr_dist.errors import UserError


def expanded(key: str, text: str) -> Path:
    """The path that the value of ``key`` names, with the home folder for a ``~`` or ``~user`` at its beginning.

    Raises:
        UserError: there is no such user here, or this one has no home.
    """
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        home = text.partition("/")[0]
        raise UserError(
            f"{key}: '{text}': {home} is nobody's home folder here; give the path itself (./{home} for a folder of "
            "that very name)"
        ) from error


def refuse_not_utf8(path: Path, reader: str) -> None:
    """
    Raises:
        UserError: the path has bytes that are no UTF-8, which the library ``reader`` cannot open.
    """
    if in_utf8(str(path)) != str(path):
        raise UserError(f"{path}: not all of this path is UTF-8, and {reader} takes no such path; rename what is not")


def in_utf8(text: str) -> str:
    """``text`` for what takes UTF-8 alone: bytes of a name that are none are spelt."""
    return text.encode("utf-8", "backslashreplace").decode()
