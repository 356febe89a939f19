"""Checkpoints written in the background: the step waits for a copy of the state, a thread for the disk."""

from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Any

from simclr_dist.errors import first_line
from simclr_dist.log import log
from simclr_dist.run import checkpoint
from simclr_dist.run.finite import first_not_finite
from simclr_dist.run.state_copy import StateCopy


class Saver:
    """Writes the checkpoints of a run, one after another; its process is the only one that does.

    At most one save is under way: the next one waits for it. Left out instead, it would leave more to be repeated after
    a kill than machine.save_every_steps promises, and two at once would take twice the memory from a disk that is
    already too slow.
    """

    def __init__(
        self,
        folder: Path,
        keep: int,
        saved_step: int | None,
        before_naming: Callable[[], None] = lambda: None,
        before_removing: Callable[[Path], None] = lambda path: None,
        after_failure: Callable[[], None] = lambda: None,
    ) -> None:
        """``saved_step`` is that of the newest checkpoint in ``folder``, which keeps the newest ``keep``.

        ``before_naming`` and ``before_removing`` are called in the writer's thread, as in :func:`checkpoint.write`, and
        so is ``after_failure``.
        """
        self.folder, self.keep = folder, keep
        self.before_naming, self.before_removing, self.after_failure = before_naming, before_removing, after_failure
        self.saved_step = saved_step
        """The step of the newest good checkpoint."""
        self.failed = 0
        """Saves that failed since the last one that did not."""
        self.reason = ""
        """Why the last one did."""
        self.cure = ""
        """And what to do."""
        self._thread: Thread | None = None
        self._copy = StateCopy()
        self._waiting_logged = False

    def begin(self, state: dict[str, Any], step: int) -> None:
        """Copy the state of ``step`` and have it written."""
        if self._thread and self._thread.is_alive() and not self._waiting_logged:
            log.info("writing a checkpoint takes longer than machine.save_every_steps steps, which wait for it")
            self._waiting_logged = True
        self.wait()
        copy = self._copy.of(state)
        # Not a daemon: Python ends when the checkpoint is written, whatever ends the run.
        self._thread = Thread(target=self._write, args=(copy, step), name="checkpoint")
        self._thread.start()

    def wait(self) -> None:
        """Until the save under way has come to its end, good or bad."""
        if self._thread:
            self._thread.join()
            self._thread = None

    def last_good(self) -> str:
        """The newest checkpoint, in words for a message."""
        if self.saved_step is None:
            return "no checkpoint was written yet"
        return f"the last good checkpoint is {checkpoint.path_of(self.folder, self.saved_step)}"

    def _write(self, state: dict[str, Any], step: int) -> None:
        try:
            # The last good checkpoint must be good: the loss shows spoilt weights only a step after they are saved.
            if spoilt := first_not_finite(state.get("model", {})):
                raise FloatingPointError(f"the weights {spoilt} are not finite")
            checkpoint.write(self.folder, state, step, self.keep, self.before_naming, self.before_removing)
        except Exception as error:  # in a thread nobody else would hear of it
            disk = isinstance(error, OSError) and error.strerror
            self.reason = disk or first_line(error)
            if isinstance(error, FloatingPointError):
                self.cure = "lower the learning rate, and start in another machine.run_dir"
            else:
                self.cure = f"{'make room' if disk else 'mend that'}, then start again"
            self.failed += 1
            self.after_failure()
            log.warning(
                "the checkpoint of step %d cannot be written: %s; %sit is tried again at the next save, and the run "
                "stops after machine.stop_after_failed_saves; %s",
                step, self.reason, "make room: " if disk else "", self.last_good(),
            )  # fmt: skip
        else:
            if self.failed:
                log.info("checkpoints are written again, step %d", step)
            self.saved_step, self.failed = step, 0
