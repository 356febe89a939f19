"""metrics.jsonl read while another process appends to it."""

import os
from pathlib import Path

from simclr_dist.run.metric_records import parse_record
from simclr_dist.tracking.sink import Record

_CHUNK_BYTES = 2**20


class Lines:
    """The records after a step, each given once; a line that is not whole yet waits for its end."""

    def __init__(self, path: Path, after: int) -> None:
        self._path, self._newest = path, after
        self._offset, self._rest, self._inode = 0, b"", 0

    def read(self) -> list[Record] | None:
        """The next records, of about a megabyte at most; [] when only others were there, None at the end for now.

        Steps that do not rise are left out: each is given once.

        Raises:
            OSError: the file cannot be read. One that is not there yet has no records.
        """
        try:
            with self._path.open("rb") as file:
                if (inode := os.fstat(file.fileno()).st_ino) != self._inode:  # a start of the run has cut it back
                    self._offset, self._rest, self._inode = 0, b"", inode
                file.seek(self._offset)
                found = file.read(_CHUNK_BYTES)
        except FileNotFoundError:
            return None
        if not found:
            return None
        self._offset += len(found)
        *lines, self._rest = (self._rest + found).split(b"\n")
        records = []
        for line in lines:
            record = parse_record(line)
            if record is not None and record["step"] > self._newest:
                self._newest = int(record["step"])
                records.append(record)
        return records
