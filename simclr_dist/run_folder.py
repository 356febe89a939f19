"""The folder of a run: it belongs to one recipe, and starting the run again goes on from its newest checkpoint."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from simclr_dist import checkpoint
from simclr_dist.config import Config, Recipe, to_dict, to_yaml
from simclr_dist.config.loading import fields_of
from simclr_dist.data.sources import ImageSource
from simclr_dist.distributed.agreement import decided_by_first
from simclr_dist.errors import UserError
from simclr_dist.metrics import log, log_to
from simclr_dist.run_lock import RunLock

# The place of the images may change between restarts; what they are is compared by count and fingerprint.
_NOT_COMPARED = ("data.path",)


class RunFolder:
    """Restores and saves the state of a run. Every process makes one and calls the same methods; rank 0 writes."""

    def __init__(self, config: Config, source: ImageSource, lock: RunLock | None = None) -> None:
        """Make the folder, take its lock (None: nobody else is at it) and start its log.

        Raises:
            UserError: it cannot be written, or another process is at the run.
        """
        self.path = Path(config.machine.run_dir).expanduser()
        self.lock = lock or RunLock(self.path)
        self.config = config
        self.images = {"count": len(source), "fingerprint": source.fingerprint()}
        self._saved_step: int | None = None
        decided_by_first(self._make)
        if lock:
            lock.take()
        decided_by_first(self._open)

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def _make(self) -> None:
        with self._told():
            self.path.mkdir(parents=True, exist_ok=True)

    def _open(self) -> None:
        with self._told():
            log_to(self.path)

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(f"machine.run_dir: {self.path} cannot be written: {error.strerror}") from error

    def restore(self, state_of: dict[str, Any]) -> int:
        """Load the newest intact checkpoint into the objects of ``state_of`` (name -> module, optimizer, ...).

        Returns:
            the steps done; 0 when there is no checkpoint.

        Raises:
            UserError: the checkpoint is of another recipe or other images, or all checkpoints are damaged.
        """
        path = decided_by_first(self._newest)
        if path is None:
            return 0
        state = checkpoint.load_shared(path)
        for name, target in state_of.items():
            target.load_state_dict(state[name])
        self._saved_step = int(state["step"])
        return self._saved_step

    def save(self, state_of: dict[str, Any], steps_done: int) -> None:
        """Write a checkpoint of ``steps_done``, unless that is the newest one already; all processes wait for it.

        Raises:
            UserError: the disk is full or cannot be written, or another process has taken the run over.
        """
        if steps_done == self._saved_step:
            return

        def write() -> None:
            state = {name: target.state_dict() for name, target in state_of.items()}
            state |= {"recipe": to_dict(self.config.recipe), "images": self.images}
            keep, check = self.config.machine.keep_checkpoints, self.lock.check
            checkpoint.save(self.checkpoints, state, steps_done, keep, check)

        decided_by_first(write)
        self._saved_step = steps_done

    def last_checkpoint(self) -> str:
        """The newest checkpoint, in words for a message."""
        if self._saved_step is None:
            return "no checkpoint was written yet"
        return f"the last good checkpoint is {checkpoint.path_of(self.checkpoints, self._saved_step)}"

    def _newest(self) -> Path | None:
        """On rank 0: the checkpoint to load, after checking that it is this recipe's; damaged ones are set aside."""
        path, complaints = checkpoint.newest_intact(self.checkpoints)
        if path is None and complaints:
            raise UserError(f"no intact checkpoint: {'; '.join(complaints)}; choose another machine.run_dir")
        for complaint in complaints:
            log.warning("damaged checkpoint set aside: %s", complaint)
        if path is not None:
            state = checkpoint.load(path)
            self._refuse_other(path, state["recipe"], state["images"])
        checkpoint.write_atomically(self.path / "config.yaml", to_yaml(self.config).encode())
        return path

    def _refuse_other(self, path: Path, recipe: dict[str, Any], images: dict[str, Any]) -> None:
        differences = [
            f"recipe.{key} is {there!r} there and {here!r} here"
            for key, there, here in _differing(recipe, self.config.recipe)
        ]
        if not differences and images != self.images:
            differences = [f"the images differ ({images['count']} there, {self.images['count']} here, or other ones)"]
        if differences:
            raise UserError(
                f"machine.run_dir: {path} is of another recipe: {'; '.join(differences)}; "
                "choose another machine.run_dir, or restore the recipe"
            )


def _differing(stored: dict[str, Any], recipe: Recipe) -> list[tuple[str, Any, Any]]:
    """(key, stored value, value here); a key that the stored recipe does not know yet counts as its default."""
    found = []
    defaults = {key: value for key, value, _ in fields_of(Recipe())}
    for key, here, _ in fields_of(recipe):
        there: Any = stored
        for part in key.split("."):
            there = there.get(part, defaults[key]) if isinstance(there, dict) else defaults[key]
        if there != here and key not in _NOT_COMPARED:
            found.append((key, there, here))
    return found
