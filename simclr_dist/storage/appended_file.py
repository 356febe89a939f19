"""A file that grows by records, on a disk that may be full: what it does not take waits in memory and follows later."""

import os
from contextlib import suppress
from pathlib import Path
from threading import Lock

WAITING_BYTES = 64 * 2**20
"""Of records at most, in memory. A step writes about a kilobyte."""


class AppendedFile:
    """Records in the order of their writing. One thread may write while another syncs."""

    def __init__(self, path: Path) -> None:
        """Open it, at its end.

        Raises:
            OSError: as the file system says.
        """
        # Without Python's buffers: after an error they do not tell what of them was written.
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        self._waiting = bytearray()
        self._lock = Lock()

    def write(self, record: bytes) -> OSError | None:
        """Append a record, now or, when what is returned says why not, as soon as the disk takes it.

        Raises:
            OSError: so much waits that no more is taken.
        """
        with self._lock:
            self._waiting += record
            try:
                self._drain()
            except OSError as error:
                if len(self._waiting) > WAITING_BYTES:
                    raise
                return error
        return None

    def sync(self) -> None:
        """Bring all records written before this call to the disk.

        Raises:
            OSError: they cannot be.
        """
        with self._lock:
            self._drain()
        os.fsync(self._descriptor)  # not under the lock: writing never waits for the disk

    def close(self) -> None:
        """What the disk does not take now is lost."""
        with self._lock, suppress(OSError):
            self._drain()
        os.close(self._descriptor)

    def _drain(self) -> None:
        while self._waiting:
            del self._waiting[: os.write(self._descriptor, self._waiting)]
