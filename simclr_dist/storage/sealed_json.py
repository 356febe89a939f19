"""JSON files for people and programs: a version first, a key a line, and a checksum of all of it last."""

import hashlib
import json
from pathlib import Path
from typing import Any

from simclr_dist.errors import UserError


def sealed(content: dict[str, Any]) -> bytes:
    """The file of ``content``, whose ``format`` is its version."""
    lines = [
        f" {json.dumps(key)}: {json.dumps(value)}" for key, value in {**content, "sha256": digest(content)}.items()
    ]
    return ("{\n" + ",\n".join(lines) + "\n}\n").encode()


def read_sealed(path: Path, version: int) -> dict[str, Any]:
    """What a file of :func:`sealed` holds.

    Raises:
        UserError: it is of a newer version than ``version``.
        ValueError, KeyError, TypeError, AttributeError, RecursionError: it is damaged.
        OSError: as the file system says.
    """
    content: dict[str, Any] = json.loads(path.read_bytes())
    if content["format"] > version:
        raise UserError(f"{path}: written by a newer simclr_dist (format {content['format']}); update to read it")
    if content.pop("sha256") != digest(content):
        raise ValueError("its checksum does not match its contents")
    return content


def digest(content: dict[str, Any]) -> str:
    """SHA-256 of the content without its checksum."""
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
