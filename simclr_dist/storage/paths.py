"""Paths as a user writes them."""

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
