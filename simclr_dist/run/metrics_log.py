"""What a run records: metrics.jsonl and TensorBoard for every step, a progress bar on a terminal, lines in a log."""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

from simclr_dist.code_version import code_version
from simclr_dist.config.metric import Metric
from simclr_dist.log import log
from simclr_dist.run.metric_records import is_damaged, lines_of, parse_record, step_in
from simclr_dist.run.tensorboard import open_events, scalars
from simclr_dist.run.writing import writing
from simclr_dist.storage.appended_file import AppendedFile
from simclr_dist.storage.atomic import write_atomically


class MetricsLog:
    """metrics.jsonl (one object a step) and TensorBoard, resumed without gaps or repeats after a restart.

    What a full disk does not take waits in memory until there is room.
    """

    def __init__(self, run_dir: Path, steps_done: int, known: Iterable[dict[str, float]] = ()) -> None:
        """Drop what a previous process wrote after the checkpoint of ``steps_done``: those steps come again.

        ``known`` are values of steps that a process which was lost may not have written. Lines that are
        no records are moved to metrics.jsonl.damaged.

        Raises:
            UserError: the file cannot be read, or the disk is full or cannot be written.
        """
        self.path = run_dir / "metrics.jsonl"
        damaged: list[bytes] = []
        last = later = 0

        def kept(file: BinaryIO) -> None:
            nonlocal last, later
            for line in lines_of(self.path):
                step = step_in(line)
                if step is None:
                    damaged.extend([line] * is_damaged(line))
                elif step > steps_done:
                    later += 1
                else:
                    last = max(last, step)
                    file.write(line.removesuffix(b"\n") + b"\n")

        with writing(run_dir):
            # A new file: a process that has lost the lock, and does not know it yet, writes to the one before.
            write_atomically(self.path, kept, check=lambda _: self._set_aside(damaged))
            self._lines = AppendedFile(self.path)
            self._events = open_events(run_dir / "tensorboard", purge_step=steps_done + 1)
        if later:
            log.info("the %d steps after the newest checkpoint are done again", later)
        self._waits = False
        for values in known:
            if values["step"] > last:
                self.write(values)

    def write(self, values: dict[str, float]) -> None:
        """One step's values; numbers that are not finite become null.

        Raises:
            UserError: the disk has been full or gone for so long that no more can be held.
        """
        finite = {key: value if math.isfinite(value) else None for key, value in values.items()}
        numbers = {key: value for key, value in values.items() if key not in ("step", "epoch")}
        with writing(self.path.parent):
            refused = self._lines.write((json.dumps(finite) + "\n").encode())
            refused = self._events.write(scalars(int(values["step"]), numbers)) or refused
        if refused and not self._waits:
            log.warning("%s: %s; the metrics wait in memory until there is room", self.path, refused.strerror)
        self._waits = refused is not None

    def sync(self) -> None:
        """Bring everything to the disk; done before a checkpoint gets its name, so that its steps are never missing.

        Raises:
            OSError: as the file system says.
        """
        self._lines.sync()
        self._events.sync()

    def close(self) -> None:
        self._lines.close()
        self._events.close()

    def _set_aside(self, damaged: list[bytes]) -> None:
        if damaged:
            aside = self.path.with_name(f"{self.path.name}.damaged")
            with aside.open("ab") as file:
                file.write(b"".join(damaged))
            log.warning("%s: lines that are no records of a step: %d; moved to %s", self.path, len(damaged), aside)


def read_metrics(path: Path) -> list[dict[str, float]]:
    """The records of a metrics.jsonl, as :func:`read_records` finds them."""
    return read_records(path)[0]


def read_records(path: Path) -> tuple[list[dict[str, float]], list[bytes]]:
    """The steps of a metrics.jsonl, and its lines that are none; nothing when it is missing.

    A line that cannot be read takes no other with it. The half-written last line that a kill may leave is neither.

    Raises:
        UserError: the file cannot be read.
    """
    records: list[dict[str, float]] = []
    damaged: list[bytes] = []
    for line in lines_of(path):
        if (record := parse_record(line)) is not None:
            records.append(record)
        elif is_damaged(line):
            damaged.append(line)
    return records, damaged


def last_metrics(path: Path) -> dict[str, float]:
    """The values of the newest step, without reading the steps before; {} when there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 2**18))
            lines = file.read().split(b"\n")[:-1]
    except OSError:
        return {}
    return next((record for line in reversed(lines) if (record := parse_record(line))), {})


def write_run_facts(run_dir: Path, total_steps: int, metrics: Mapping[str, Metric]) -> None:
    """Keep in run.json what the numbers do not say: the length of the run, what each metric is
    (:mod:`simclr_dist.run.descriptions` reads it), and which code computes it.

    Raises:
        UserError: the disk is full or cannot be written.
    """
    described = {name: asdict(metric) for name, metric in metrics.items()}
    facts = {"total_steps": total_steps, "metrics": described, "code": code_version()}
    with writing(run_dir):
        write_atomically(run_dir / "run.json", json.dumps(facts).encode())


def read_run_facts(run_dir: Path) -> dict[str, Any]:
    """What stands in a run folder's run.json; {} when there is none."""
    try:
        facts: Any = json.loads((run_dir / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}


def write_record(path: Path, record: Any) -> None:
    """Write a run's record of something as JSON. A run is worth more than that: a full disk is a warning."""
    try:
        write_atomically(path, (json.dumps(record, indent=1) + "\n").encode())
    except OSError as error:
        log.warning("%s cannot be written: %s; the run continues", path, error.strerror)
