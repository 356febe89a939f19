"""The folder of a run: it belongs to one recipe, and a run started again resumes from its newest checkpoint."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from simclr_dist.config import Config, to_yaml
from simclr_dist.data.sources.base import ImageSource
from simclr_dist.data.sources.identity import images_of
from simclr_dist.distributed.agreement import decided_by_first
from simclr_dist.distributed.collectives import process_rank
from simclr_dist.errors import UserError
from simclr_dist.log import log, log_to
from simclr_dist.run import checkpoint
from simclr_dist.run.contents import REQUIRED, contents, digest_in, refuse_incomplete, refuse_other_run
from simclr_dist.run.kept import NONE, Kept
from simclr_dist.run.lock import RunLock
from simclr_dist.run.newest import Newest, load_newest, set_aside
from simclr_dist.run.same_recipe import keep_given, refuse_folder_of_other
from simclr_dist.run.writer import Saver
from simclr_dist.run.writing import writing
from simclr_dist.storage.atomic import write_atomically
from simclr_dist.storage.temporary import remove_leftovers

# Between attempts at a save that the run cannot end without.
_SECONDS_BETWEEN_ATTEMPTS = 5.0


class Start(Protocol):
    """How a run begins that has no checkpoint yet."""

    def name_weights(self, stored: str | None) -> str:
        """The digest of the weights that it begins with, given the one in the run's checkpoint; rank 0 asks."""

    def begin(self) -> int:
        """Begin with them; the steps of the recipe that count as done."""


class RunFolder:
    """Restores and saves the state of a run. Every process makes one and calls the same methods; rank 0 writes."""

    def __init__(
        self,
        config: Config,
        source: ImageSource,
        lock: RunLock | None = None,
        images: dict[str, Any] | None = None,
    ) -> None:
        """Make the folder, take its lock (None: nobody else is at it) and start its log.

        ``images``: what the run's images are, where it goes on and has asked before.

        Raises:
            UserError: it cannot be written, or another process is at the run.
        """
        self.path = Path(config.machine.run_dir)
        self.lock = lock or RunLock(self.path)
        self.config = config
        self.source = source
        self._images = images
        machine = config.machine
        self._kept = Kept(self.path, machine.keep_every_steps, machine.keep_best)
        self._saver = Saver(
            self.checkpoints, machine.keep_checkpoints, None,
            self._before_naming, self._kept.keep, self._kept.not_written,
        )  # fmt: skip
        self._sync_metrics: Callable[[], None] = lambda: None
        decided_by_first(self._make)
        if lock:
            lock.take()
        decided_by_first(self._open)

    @property
    def images(self) -> dict[str, Any]:
        """What the run's images are, as they were when first asked: at the start, on rank 0."""
        if self._images is None:
            self._images = images_of(self.source)
        return self._images

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def _make(self) -> None:
        with writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)

    def _open(self) -> None:
        for folder in (self.path, self._kept.folder):
            remove_leftovers(folder)
        with writing(self.path):
            log_to(self.path)

    def restore(self, state_of: dict[str, Any], start: Start | None = None) -> int:
        """Load the newest intact checkpoint into the objects of ``state_of`` (name -> module, optimizer, ...).

        Returns:
            the steps done; where there is no checkpoint those with which ``start`` begins, or 0.

        Raises:
            UserError: the checkpoint is of another recipe or other images, all checkpoints are damaged, or what
                ``start`` refuses.
        """
        path, self.config.recipe.initial.sha256 = decided_by_first(lambda: self._newest(start))
        if path is None:
            return start.begin() if start else 0
        state = checkpoint.load_shared(path)
        for name, target in state_of.items():
            if name in state or name in REQUIRED:
                target.load_state_dict(state[name])
        steps_done = self._saver.saved_step = int(state["step"])
        return steps_done

    def go_on_from(self, step: int) -> None:
        """Begin with a state that is in memory: checkpoints of later steps, which come again, are removed."""

        def remove_later() -> None:
            self.lock.check()
            for path in checkpoint.by_age(self.checkpoints):
                if checkpoint.step_in_name(path) <= step:
                    self._saver.saved_step = checkpoint.step_in_name(path)
                    return
                path.unlink(missing_ok=True)

        decided_by_first(remove_later)

    def begin(self, sync_metrics: Callable[[], None], steps_done: int) -> None:
        """Before the first save: ``sync_metrics`` brings the metrics to the disk, those of ``steps_done`` steps.

        It is called in the writer's thread before a checkpoint gets its name, so that no step of a checkpoint is ever
        missing in the metrics. What it raises (OSError) makes the save fail.
        """
        self._sync_metrics = sync_metrics

        def begin() -> None:
            with writing(self.path):
                self._kept.begin(steps_done, self.checkpoints)

        decided_by_first(begin)

    def is_due(self, steps_done: int, evaluated: dict[str, float]) -> bool:
        """Whether a checkpoint is to be written now: all processes get the same answer.

        Args:
            steps_done: by now.
            evaluated: what an online evaluation found after this step, {} where there was none.
        """
        machine = self.config.machine
        is_best = False
        if evaluated and machine.keep_best != NONE:
            is_best = decided_by_first(lambda: self._kept.is_better(steps_done, evaluated))
        return is_best or steps_done % machine.save_every_steps == 0 or self._kept.is_milestone(steps_done)

    def begin_save(self, state_of: dict[str, Any], steps_done: int) -> None:
        """Have a checkpoint of ``steps_done`` written while the run continues; the call takes as long as a copy."""
        if process_rank() == 0:
            self._saver.begin(contents(state_of, self.config.recipe, self.images), steps_done)

    def save_unless_there(self, state_of: dict[str, Any], steps_done: int) -> None:
        """As :meth:`begin_save`, where the newest checkpoint is another one."""
        if process_rank() == 0 and self._saver.saved_step != steps_done:
            self.begin_save(state_of, steps_done)

    @property
    def failed_saves(self) -> int:
        """How many failed since the last good one; known to rank 0 alone, 0 elsewhere."""
        return self._saver.failed

    def check_saves(self, failed: float) -> None:
        """End the run when too many saves failed; ``failed``, the same on all processes, is how many.

        Raises:
            UserError: they are machine.stop_after_failed_saves.
        """
        if failed >= self.config.machine.stop_after_failed_saves:
            decided_by_first(self._give_up)

    def finish_save(self, state_of: dict[str, Any], steps_done: int) -> None:
        """Return when a checkpoint of ``steps_done`` is there; all processes wait for it.

        Raises:
            UserError: machine.stop_after_failed_saves attempts failed, those before this call included.
        """

        def settle() -> None:
            self._saver.wait()
            pause = 0.0
            while self._saver.saved_step != steps_done:
                if self._saver.failed >= self.config.machine.stop_after_failed_saves:
                    self._give_up()
                self.lock.check()
                time.sleep(pause)
                pause = _SECONDS_BETWEEN_ATTEMPTS
                self.begin_save(state_of, steps_done)
                self._saver.wait()

        decided_by_first(settle)

    def close(self) -> None:
        """Wait for the save under way."""
        self._saver.wait()

    def last_checkpoint(self) -> str:
        """The newest checkpoint, in words for a message; only rank 0 knows."""
        self._saver.wait()
        return self._saver.last_good()

    def _before_naming(self) -> None:
        self._sync_metrics()
        self.lock.check()  # the last thing before the file has its name

    def _give_up(self) -> None:
        raise UserError(
            f"machine.run_dir: {self._saver.failed} saves to {self.checkpoints} failed one after another, the last "
            f"because: {self._saver.reason}; {self._saver.cure}: {self._saver.last_good()}"
        )

    def _newest(self, start: Start | None) -> tuple[Path | None, str]:
        """On rank 0: the checkpoint to load, after checking that it is this recipe's; damaged ones are set aside.

        And the digest of the weights that the run begins, or began with.
        """
        images = self.images  # asked for now: a file that is replaced later is not of this run
        newest = load_newest(self.checkpoints)
        path, state = newest.path, newest.state
        if path is None and newest.damaged:
            raise UserError(f"no intact checkpoint: {'; '.join(newest.complaints)}; choose another machine.run_dir")
        if path is not None:
            refuse_incomplete(path, state)
        initial = self.config.recipe.initial
        if start:
            initial.sha256 = start.name_weights(digest_in(state["recipe"]) if path else None)
        if path is not None:
            refuse_other_run(path, state, self.config.recipe, images, self.source)
            # As the run began: a file that is empty now, as the disk lost it, may come back.
            sizes = state["images"].get("sizes")  # what an earlier version kept has none
            self._images = images | ({"sizes": sizes} if sizes else {})
        else:
            refuse_folder_of_other(self.path, self.config.recipe)
        self._set_aside(newest)
        with writing(self.path):
            keep_given(self.path)
            write_atomically(self.path / "config.yaml", to_yaml(self.config).encode())
        return path, initial.sha256

    def _set_aside(self, newest: Newest) -> None:
        """Damaged checkpoints away from the names that this run will write: it holds the lock."""
        if newest.damaged:
            self.lock.check()
        set_aside(newest.damaged)
        for complaint in newest.complaints:
            log.warning("damaged checkpoint set aside: %s", complaint)
        if said := newest.passed_over():
            log.warning("%s: %s", self.checkpoints, said)
