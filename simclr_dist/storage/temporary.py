"""Names of files that are being written, and the removal of those whose process was killed."""

import hashlib
import os
import platform
import re
import secrets
import time
from contextlib import suppress
from pathlib import Path

SECONDS_OF_OTHERS = 86400.0
"""A file of another host, or of an earlier version, is left over when nobody has written into it for so long."""

_TOKEN = secrets.token_hex(4)
_OWN = re.compile(r"\.tmp\.([0-9a-f]{8})_(\d+)_[0-9a-f]{8}\..+|\..+\.([0-9a-f]{8})_(\d+)_[0-9a-f]{8}\.tmp")
_EARLIER = re.compile(r"\.tmp\.\d+\..+|\..+\.[0-9a-f]{8}_\d+\.tmp")


def pid_namespace() -> str:
    """Boot and process namespace. A process id means something only to processes that have both in common: containers
    may share a host's name and count their processes from 1 each.
    """
    parts = []
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
    with suppress(OSError):
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def temporary_name(path: Path, *, suffix_last: bool = False) -> Path:
    """Beside ``path``, of this process alone; ``suffix_last`` keeps the end of the name, by which libraries choose."""
    place = hashlib.sha256(f"{platform.node()} {pid_namespace()}".encode()).hexdigest()[:8]
    mark = f"{place}_{os.getpid()}_{_TOKEN}"
    return path.with_name(f".tmp.{mark}.{path.name}" if suffix_last else f".{path.name}.{mark}.tmp")


def remove_leftovers(folder: Path) -> None:
    """Remove what processes that were killed have left half written in a folder; what lives is left."""
    with suppress(OSError):
        here = temporary_name(folder / "x").name.split(".")[2].partition("_")[0]
        for name in os.listdir(folder):
            path, own = folder / name, _OWN.fullmatch(name)
            if own and (own[1] or own[3]) == here:
                is_left = _is_dead(int(own[2] or own[4]))
            else:
                is_left = bool(own or _EARLIER.fullmatch(name)) and _age(path) > SECONDS_OF_OTHERS
            if is_left:
                with suppress(OSError):
                    path.unlink()


def _is_dead(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:  # another user's: it lives
        return False
    return False


def _age(path: Path) -> float:
    try:
        return time.time() - path.lstat().st_mtime
    except OSError:
        return 0.0
