"""Trainings of classifiers that resume where they were stopped.

They are kept in the run's folder, ``unfinished/METHOD_<32 hex digits>/step_*.pt``, in the format of checkpoints; the
digits are those of everything that determines a training, so no other one is ever taken for it. A training that came
to its end leaves its accuracies there in place of its weights. All are removed when the result is written.
"""

import hashlib
import json
import shutil
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from simclr_dist.distributed.agreement import decided_by_first
from simclr_dist.distributed.collectives import maximum
from simclr_dist.log import log
from simclr_dist.run import checkpoint
from simclr_dist.run.newest import load_newest, set_aside
from simclr_dist.stop_signals import StopSignals

SECONDS_BETWEEN_SAVES = 300.0
_KEPT = 2

Accuracies = tuple[float, float | None, float]
"""Top-1 and top-5."""


class TrainingStoppedError(Exception):
    """A signal stopped a training, which was saved; the message says how to resume. All processes raise it together."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.signal = number


class SavedTraining:
    """One training. Every process makes one and calls the same methods; rank 0 writes.

    While entered, SIGINT and SIGTERM save and stop it after the step under way.
    """

    def __init__(self, folder: Path | None = None, every_seconds: float = SECONDS_BETWEEN_SAVES) -> None:
        """Look for what was saved; without a folder nothing ever is, and signals do what they always do."""
        self.folder, self.every_seconds = folder, every_seconds
        self._stop = StopSignals()
        path = decided_by_first(self._newest) if folder else None
        self._state = checkpoint.load_shared(path) if path else {}

    @property
    def accuracies(self) -> Accuracies | None:
        """What the training came to, when it has been finished before."""
        found = self.kept("accuracies")
        return (found[0], found[1], found[2]) if found else None

    def kept(self, name: str) -> Any:
        """What :meth:`keep` kept under ``name`` when the training was finished before, else None."""
        return self._state.get(name)

    def restore(self, state_of: dict[str, Any]) -> int:
        """Load what was saved into the objects of ``state_of`` (name -> module, optimizer); returns the steps done."""
        state, self._state = self._state, {}
        for name in state_of if state else ():
            state_of[name].load_state_dict(state[name])
        return int(state.get("step", 0))

    def __enter__(self) -> "SavedTraining":
        if self.folder:
            self._stop.__enter__()
        self._saved_at = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        if self.folder:
            self._stop.__exit__()

    def after_step(self, state_of: dict[str, Any], step: int, total: int) -> None:
        """Save ``state_of`` after ``step`` of ``total`` steps, if it is time or a signal came on some process.

        Raises:
            TrainingStoppedError: one has got a signal.
            UserError: the folder cannot be written.
        """
        if not self.folder:
            return
        due = time.monotonic() - self._saved_at >= self.every_seconds
        number, due_somewhere = maximum([self._stop.received or 0, due])
        if number or due_somewhere:
            self._save({name: target.state_dict() for name, target in state_of.items()}, step)
            self._saved_at = time.monotonic()
        if number:
            raise TrainingStoppedError(
                f"stopped by {signal.Signals(int(number)).name} after step {step} of {total}, saved in {self.folder}; "
                "start the same command again to resume",
                int(number),
            )

    def finish(self, accuracies: Accuracies, step: int) -> Accuracies:
        """Keep what the training of ``step`` steps came to in place of its weights, until the result is written."""
        self.keep({"accuracies": list(accuracies)}, step)
        return accuracies

    def keep(self, found: dict[str, Any], step: int) -> None:
        """As :meth:`finish`, of tensors and plain data by their names."""
        self._save(found, step, keep=1)

    def remove(self) -> None:
        """Forget it; on rank 0."""
        if self.folder:
            shutil.rmtree(self.folder, ignore_errors=True)
            with suppress(OSError):  # others are there still
                self.folder.parent.rmdir()

    def _save(self, state: dict[str, Any], step: int, keep: int = _KEPT) -> None:
        if folder := self.folder:
            decided_by_first(lambda: str(checkpoint.save(folder, state, step, keep)))

    def _newest(self) -> Path | None:
        assert self.folder
        newest = load_newest(self.folder)
        set_aside(newest.damaged)  # this evaluation writes the folder
        for complaint in newest.complaints:
            log.warning("a saved training is damaged and set aside: %s", complaint)
        return newest.path


class Unfinished:
    """The trainings of an evaluation whose result is not written yet."""

    def __init__(self, folder: Path | None = None, every_seconds: float = SECONDS_BETWEEN_SAVES) -> None:
        """``folder`` holds a folder for each; None: they are not saved."""
        self.folder, self.every_seconds = folder, every_seconds
        self._opened: list[SavedTraining] = []

    def training(self, method: str, facts: list[Any]) -> SavedTraining:
        """The one that ``facts``, plain data, determine; every process calls it."""
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]
        saved = SavedTraining(self.folder and self.folder / f"{method}_{digest}", self.every_seconds)
        self._opened.append(saved)
        return saved

    def remove(self) -> None:
        """Forget those that this evaluation opened, now that its result is written; on rank 0."""
        for saved in self._opened:
            saved.remove()
