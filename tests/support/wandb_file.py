"""What stands in a .wandb file: W&B's transaction log, records of protobuf in LevelDB's log format.

wandb itself reads these files in its Go program alone; the records are read with wandb's own protobuf classes.
"""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_BLOCK, _HEADER = 32768, 7  # a block; of each piece: checksum (4 bytes), length (2), type (1)
_FULL, _LAST = 1, 4  # of 1 full, 2 first, 3 middle, 4 last


def offline_runs(run_dir: Path) -> list[Path]:
    """The .wandb files that `wandb sync` would send."""
    return sorted((run_dir / "wandb").glob("offline-run-*/*.wandb"))


def records(path: Path) -> Iterator[Any]:
    from wandb.proto.wandb_internal_pb2 import Record

    content = path.read_bytes()
    assert content[:4] == b":W&B"
    at, record = _HEADER, b""
    while at + _HEADER <= len(content):
        if _BLOCK - at % _BLOCK < _HEADER:  # padding
            at += _BLOCK - at % _BLOCK
            continue
        length, kind = struct.unpack("<HB", content[at + 4 : at + _HEADER])
        record += content[at + _HEADER : at + _HEADER + length]
        at += _HEADER + length
        if kind in (_FULL, _LAST):
            yield Record.FromString(record)
            record = b""


def history(path: Path) -> list[dict[str, Any]]:
    """The rows of the history, each with ``_step``."""
    rows = [record.history for record in records(path) if record.HasField("history")]
    return [
        {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in row.item}
        | {"_step": row.step.num}
        for row in rows
    ]


def run_record(path: Path) -> Any:
    """The record that names the run."""
    return next(record.run for record in records(path) if record.HasField("run"))
