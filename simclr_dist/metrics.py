"""What a run tells: metrics.jsonl and TensorBoard for every step, a progress bar on a terminal, lines in a log."""

import json
import logging
import math
import os
import sys
import time
from contextlib import suppress
from pathlib import Path

from tqdm import tqdm

from simclr_dist.checkpoint import write_atomically
from simclr_dist.errors import UserError

log = logging.getLogger("simclr_dist")
_LINE_EVERY_SECONDS = 10.0


class MetricsLog:
    """metrics.jsonl (one object a step) and TensorBoard, going on without gaps or repeats after a restart."""

    def __init__(self, run_dir: Path, steps_done: int) -> None:
        """Drop what a previous process wrote after the checkpoint of ``steps_done``: those steps come again."""
        from torch.utils.tensorboard import SummaryWriter

        self.path = run_dir / "metrics.jsonl"
        written = read_metrics(self.path)
        lines = [line for line in written if line["step"] <= steps_done]
        if len(lines) < len(written):
            log.info("the %d steps after the newest checkpoint are done again", len(written) - len(lines))
        write_atomically(self.path, "".join(json.dumps(line) + "\n" for line in lines).encode())
        self._file = self.path.open("a", encoding="utf-8")
        self._board = SummaryWriter(str(run_dir / "tensorboard"), purge_step=steps_done + 1)

    def write(self, values: dict[str, float]) -> None:
        """One step's values; numbers that are not finite become null.

        Raises:
            UserError: the disk is full or gone.
        """
        finite = {key: value if math.isfinite(value) else None for key, value in values.items()}
        try:
            self._file.write(json.dumps(finite) + "\n")
            self._file.flush()
        except OSError as error:
            raise UserError(
                f"machine.run_dir: {self.path} cannot be written: {error.strerror}; make room, then start again to go "
                "on from the last checkpoint"
            ) from error
        for key, value in values.items():
            if key not in ("step", "epoch"):
                self._board.add_scalar(key, value, int(values["step"]))

    def sync(self) -> None:
        """Bring everything to the disk; done before a checkpoint, so that its steps are never missing here."""
        os.fsync(self._file.fileno())
        self._board.flush()

    def close(self) -> None:
        # What a full disk did not take was told by ``write``.
        with suppress(OSError):
            self._file.close()
        with suppress(OSError):
            self._board.close()


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


class Reporter:
    """Where the numbers of a step go: the metrics log, and a bar on a terminal or a line every ten seconds elsewhere.

    One process of the run reports (``active``); the others' calls do nothing.
    """

    def __init__(self, run_dir: Path, steps_done: int, total_steps: int, *, active: bool) -> None:
        self.total, self._first, self._active = total_steps, steps_done, active
        self._started = self._last_line = time.monotonic()
        self._bar = None
        if active:
            write_facts(run_dir, {"total_steps": total_steps})
            self._metrics = MetricsLog(run_dir, steps_done)
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
        """Bring all numbers to the disk."""
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
    file = logging.FileHandler(run_dir / "log.txt", encoding="utf-8")
    file.setFormatter(logging.Formatter("%(asctime)s  %(message)s"))
    log.addHandler(file)
