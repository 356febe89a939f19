"""What a run tells: metrics.jsonl and TensorBoard for every step, a progress bar on a terminal, lines in a log."""

import json
import logging
import math
import sys
import time
from pathlib import Path
from typing import Any

from tqdm import tqdm

from simclr_dist.appended_file import AppendedFile
from simclr_dist.checkpoint import write_atomically
from simclr_dist.errors import UserError
from simclr_dist.event_file import open_events, scalars

log = logging.getLogger("simclr_dist")
_LINE_EVERY_SECONDS = 10.0


class MetricsLog:
    """metrics.jsonl (one object a step) and TensorBoard, going on without gaps or repeats after a restart.

    What a full disk does not take waits in memory until there is room.
    """

    def __init__(self, run_dir: Path, steps_done: int) -> None:
        """Drop what a previous process wrote after the checkpoint of ``steps_done``: those steps come again.

        Raises:
            UserError: the disk is full or cannot be written.
        """
        self.path = run_dir / "metrics.jsonl"
        written = read_metrics(self.path)
        lines = [line for line in written if line["step"] <= steps_done]
        if len(lines) < len(written):
            log.info("the %d steps after the newest checkpoint are done again", len(written) - len(lines))
        try:
            write_atomically(self.path, "".join(json.dumps(line) + "\n" for line in lines).encode())
            self._lines = AppendedFile(self.path)
            self._events = open_events(run_dir / "tensorboard", purge_step=steps_done + 1)
        except OSError as error:
            raise self._cannot_be_written(error) from error
        self._waits = False

    def write(self, values: dict[str, float]) -> None:
        """One step's values; numbers that are not finite become null.

        Raises:
            UserError: the disk has been full or gone for so long that no more can be held.
        """
        finite = {key: value if math.isfinite(value) else None for key, value in values.items()}
        numbers = {key: value for key, value in values.items() if key not in ("step", "epoch")}
        try:
            refused = self._lines.write((json.dumps(finite) + "\n").encode())
            refused = self._events.write(scalars(int(values["step"]), numbers)) or refused
        except OSError as error:
            raise self._cannot_be_written(error) from error
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

    def _cannot_be_written(self, error: OSError) -> UserError:
        return UserError(
            f"machine.run_dir: {self.path.parent} cannot be written: {error.strerror}; make room, then start again to "
            "go on from the last checkpoint"
        )


def read_metrics(path: Path) -> list[dict[str, float]]:
    """The lines of a metrics.jsonl, without the half-written last line that a kill may leave; [] when missing."""
    lines = []
    if path.exists():
        for text in path.read_text(encoding="utf-8").splitlines():
            try:
                lines.append(json.loads(text))
            except json.JSONDecodeError:
                break
    return lines


def last_metrics(path: Path) -> dict[str, float]:
    """The values of the newest step, without reading the steps before; {} when there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 16384))
            lines = file.read().split(b"\n")[:-1]
        found: dict[str, float] = json.loads(lines[-1])
    except (OSError, IndexError, ValueError):
        return {}
    return found


def write_facts(run_dir: Path, facts: dict[str, int]) -> None:
    """Keep what the metrics do not say, such as ``total_steps``, in run.json."""
    write_atomically(run_dir / "run.json", json.dumps(facts).encode())


def read_facts(run_dir: Path) -> dict[str, int]:
    """What :func:`write_facts` wrote; {} when nothing did yet."""
    try:
        facts: dict[str, int] = json.loads((run_dir / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return facts


def write_record(path: Path, record: Any) -> None:
    """Write a run's record of something as JSON. A run is worth more than that: a full disk is a warning."""
    try:
        write_atomically(path, (json.dumps(record, indent=1) + "\n").encode())
    except OSError as error:
        log.warning("%s cannot be written: %s; the run goes on", path, error.strerror)


class Reporter:
    """Where the numbers of a step go: the metrics log, and a bar on a terminal or a line every ten seconds elsewhere.

    One process of the run reports (``active``); the others' calls do nothing.
    """

    def __init__(self, run_dir: Path, steps_done: int, total_steps: int, *, active: bool) -> None:
        self.total, self._first, self._active = total_steps, steps_done, active
        self._started = self._last_line = time.monotonic()
        self._bar = None
        if active:
            self._metrics = MetricsLog(run_dir, steps_done)
            write_facts(run_dir, {"total_steps": total_steps})
            if sys.stderr.isatty():
                self._bar = tqdm(total=total_steps, initial=steps_done, unit="step")

    def __enter__(self) -> "Reporter":
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
        if self._active:
            self._metrics.close()

    def step(self, values: dict[str, float]) -> None:
        """The values of the step just done."""
        if not self._active:
            return
        self._metrics.write(values)
        text = (
            f"loss {values['loss']:.4f}  top-1 {100 * values['contrastive_top1']:.1f} %  "
            f"{values['images_per_second']:.0f} images/s"
        )
        looks = "  ".join(f"{key} {100 * value:.1f} %" for key, value in values.items() if key.startswith("online_"))
        if looks:
            log.info("step %d of %d  %s", int(values["step"]), self.total, looks)
        if self._bar is not None:
            self._bar.set_postfix_str(text, refresh=False)
            self._bar.update()
            return
        now, step = time.monotonic(), int(values["step"])
        if now - self._last_line >= _LINE_EVERY_SECONDS or step == self.total:
            left = (now - self._started) / (step - self._first) * (self.total - step)
            log.info("step %d of %d  %s  %s left", step, self.total, text, duration(left))
            self._last_line = now

    def sync(self) -> None:
        """Bring all numbers to the disk. Another thread than the one that tells the steps may call this.

        Raises:
            OSError: as the file system says.
        """
        if self._active:
            self._metrics.sync()


def duration(seconds: float) -> str:
    """2 h 05 min, 3 min 20 s, 12 s."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def log_to(run_dir: Path) -> None:
    """Send the project's log lines to the terminal and, with the time, to run_dir/log.txt."""
    log.setLevel(logging.INFO)
    log.propagate = False
    log.handlers.clear()
    log.addHandler(logging.StreamHandler())
    file = _LogFile(run_dir / "log.txt", encoding="utf-8")
    file.setFormatter(logging.Formatter("%(asctime)s  %(message)s"))
    log.addHandler(file)


class _LogFile(logging.FileHandler):
    """Lines that a full disk does not take are on the terminal, and no tracebacks with them."""

    def handleError(self, record: logging.LogRecord) -> None:
        if not isinstance(sys.exception(), OSError):
            super().handleError(record)
