"""What the living processes of a node will want of a cache: a list each, locked as long as its process lives."""

import fcntl
import os
import secrets
from contextlib import suppress
from pathlib import Path

from simclr_dist.storage.flocks import is_held


class WantedLists:
    """As one process sees them. Every call is made with the cache's lock."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._own: tuple[int, int] | None = None  # process, descriptor

    def write(self, layouts: list[str]) -> None:
        """What this process will read, the next first."""
        if self._own is None or self._own[0] != os.getpid():
            path = self.folder / f"{os.getpid()}_{secrets.token_hex(4)}"
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            self._own = os.getpid(), descriptor
        content = "".join(f"{layout}\n" for layout in layouts).encode()
        os.pwrite(self._own[1], content, 0)
        os.ftruncate(self._own[1], len(content))

    def soonest(self) -> dict[str, int]:
        """Shard -> how soon a living process wants it; lists of others go."""
        found: dict[str, int] = {}
        for name in os.listdir(self.folder):
            path = self.folder / name
            if not is_held(path):
                path.unlink(missing_ok=True)
                continue
            with suppress(OSError):
                for place, layout in enumerate(path.read_text(encoding="ascii", errors="replace").split()):
                    found[layout] = min(place, found.get(layout, place))
        return found
