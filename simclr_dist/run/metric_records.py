"""The lines of a metrics.jsonl, one after another: of a long run there are more than should be held, or even parsed."""

import json
import math
import re
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any

from simclr_dist.storage.reading import cannot_be_read

# A record as it is written: to know it by this takes half the time of parsing it.
_PLAIN = re.compile(rb'\{"step": (\d{1,15})(?:, "[\w./ -]*": (?:null|-?\d+(?:\.\d+)?(?:e[-+]\d+)?))*\}\n?')


def records_of(path: Path, steps: Container[int]) -> list[dict[str, float]]:
    """The records of those steps; the lines of others are not parsed.

    Raises:
        UserError: the file cannot be read.
    """
    wanted = (parse_record(line) for line in lines_of(path) if (step := step_in(line)) is not None and step in steps)
    return [record for record in wanted if record is not None]


def parse_record(line: bytes) -> dict[str, float] | None:
    """What :class:`~simclr_dist.run.metrics_log.MetricsLog` wrote; None for anything else.

    Another tool may have written a number that is not finite, which is read as it would have been written here: null.
    """
    try:
        found: Any = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or type(found.get("step")) is not int:
        return None
    try:
        finite = all(value is None or math.isfinite(value) for value in found.values())
    except (TypeError, OverflowError):  # no number, or an integer that no float can hold
        return None
    record: dict[str, Any] = found
    if not finite:
        record = {key: value if math.isfinite(value or 0) else None for key, value in found.items()}
    return record


def lines_of(path: Path) -> Iterator[bytes]:
    """One after another, with their ends; none when the file is missing.

    Raises:
        UserError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            yield from file
    except FileNotFoundError:
        return
    except OSError as error:
        raise cannot_be_read(path, error) from error


def step_in(line: bytes) -> int | None:
    """Of which step a line is the record; None: it is none."""
    if plain := _PLAIN.fullmatch(line):
        return int(plain[1])
    record = parse_record(line)
    return None if record is None else int(record["step"])


def is_damaged(line: bytes) -> bool:
    """Of a line that is no record: it is not blank, nor the last one that a kill has left half written."""
    return bool(line.strip()) and line.endswith(b"\n")
