"""What a run shows while it goes: a bar on a terminal, a line now and then elsewhere; the metrics log beside."""

import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from tqdm import tqdm

from simclr_dist.config.metric import CONTRASTIVE, EVERY_METHOD, ONLINE, RANK_ME, Metric
from simclr_dist.config.tracking import Tracking
from simclr_dist.log import log
from simclr_dist.run.metrics_log import MetricsLog, write_run_facts
from simclr_dist.run.trackers import Trackers
from simclr_dist.terminal import errors_on_terminal

_LINE_EVERY_SECONDS = 10.0


class Reporter:
    """Where the numbers of a step go: the metrics log, and a bar on a terminal or a line every ten seconds elsewhere.

    One process of the run reports (``active``); the others' calls do nothing.
    """

    def __init__(
        self,
        run_dir: Path,
        metrics: Mapping[str, Metric],
        steps_done: int,
        total_steps: int,
        *,
        active: bool,
        tracking: Tracking | None = None,
        known: Iterable[dict[str, float]] = (),
    ) -> None:
        """``metrics`` are what the numbers of a step are; their headline stands beside the loss, and where it is not of
        negatives also what shows a collapse. ``known``: as :class:`MetricsLog` takes it.
        """
        self.total, self._first, self._active = total_steps, steps_done, active
        self._known = {**EVERY_METHOD, **metrics}
        self._headline = [name for name, metric in metrics.items() if metric.role == "headline"]
        if CONTRASTIVE not in metrics:
            self._headline += [name for name, metric in metrics.items() if metric.role == "collapse"] + [RANK_ME]
        self._rank: dict[str, float] = {}  # the newest, as not every step has one
        self._started = self._last_line = time.monotonic()
        self._bar = None
        if active:
            self._metrics = MetricsLog(run_dir, steps_done, known)
            write_run_facts(run_dir, total_steps, metrics)
            self._trackers = Trackers(run_dir, tracking or Tracking())
            if errors_on_terminal():
                self._bar = tqdm(total=total_steps, initial=steps_done, unit="step")

    def __enter__(self) -> "Reporter":
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            with suppress(OSError):
                self._bar.close()
        if self._active:
            self._metrics.close()
            self._trackers.close()

    def step(self, values: dict[str, float]) -> None:
        """The values of the step just done."""
        if not self._active:
            return
        self._metrics.write(values)
        self._trackers.poll()
        self._rank |= {name: value for name, value in values.items() if name == RANK_ME}
        parts = [f"loss {values['loss']:.4f}", *self._shown(self._rank | values, self._headline)]
        text = "  ".join([*parts, f"{values['images_per_second']:.0f} images/s"])
        if online := "  ".join(self._shown(values, ONLINE)):
            log.info("step %d of %d  %s", int(values["step"]), self.total, online)
        if self._bar is not None:
            with suppress(OSError):  # the terminal is gone
                self._bar.set_postfix_str(text, refresh=False)
                self._bar.update()
            return
        now, step = time.monotonic(), int(values["step"])
        if now - self._last_line >= _LINE_EVERY_SECONDS or step == self.total:
            left = (now - self._started) / (step - self._first) * (self.total - step)
            log.info("step %d of %d  %s  %s left", step, self.total, text, duration(left))
            self._last_line = now

    def _shown(self, values: dict[str, float], names: Iterable[str]) -> list[str]:
        """Title and value of those metrics that ``values`` has."""
        known = [(self._known[name], values[name]) for name in names if name in values]
        return [f"{metric.title} {metric.shown(value)}" for metric, value in known]

    def sync(self) -> None:
        """Bring all numbers to the disk. Another thread than the one that reports the steps may call this.

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
