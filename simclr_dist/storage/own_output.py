"""What a command may replace: what an earlier call of its kind has written, and nothing else."""

import json
from pathlib import Path

from simclr_dist.errors import UserError

SOFTWARE = "simclr-dist"
"""The text "Software" of the project's PNG files."""


def refuse_other_picture(path: Path, option: str = "--out") -> None:
    """Before anything is computed.

    Raises:
        UserError: what stands there is no PNG of this project.
    """
    from PIL import Image

    if not path.exists():
        return
    try:
        with Image.open(path) as there:
            is_own = there.info.get("Software") == SOFTWARE
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        is_own = False
    refuse_unless(is_own, path, option, "no picture of simclr-dist")


def refuse_other_json(path: Path, key: str, option: str) -> None:
    """As :func:`refuse_other_picture`, of a file of JSON that has ``key`` where it is the command's own."""
    if not path.exists():
        return
    try:
        there = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        there = None
    refuse_unless(isinstance(there, dict) and key in there, path, option, "not of this command")


def refuse_unless(is_own: bool, path: Path, option: str, what: str) -> None:
    """Raise a UserError that says ``what`` the file is where it is not the command's own."""
    if not is_own:
        raise UserError(f"{option}: {path} is there and is {what}; choose another name, or remove it")
