"""Checkpoints that stay: milestones, and the best by an online evaluation.

They are hard links in a folder of their own (copies, where a file system has no links), so that nothing which removes
old checkpoints, another value of the keys included, ever reaches them. The name of the best holds its step, and its
value stands in metrics.jsonl: nothing beside the file could contradict it (docs/design/checkpoints.md).
"""

import re
import shutil
from pathlib import Path

from simclr_dist.errors import UserError
from simclr_dist.log import log
from simclr_dist.run import checkpoint
from simclr_dist.run.metric_records import records_of
from simclr_dist.storage.atomic import flush_folder, write_atomically
from simclr_dist.storage.temporary import temporary_name

FOLDER = "kept"
NONE = "none"
_BEST = re.compile(r"best_([a-z0-9_]+)_step_(\d+)\.pt")


class Kept:
    """What process 0 keeps of the checkpoints that it writes."""

    def __init__(self, run_dir: Path, every_steps: int, best_by: str) -> None:
        """``every_steps``: between milestones, 0: none. ``best_by``: a metric of online evaluations, or NONE."""
        self.folder, self.every_steps, self.best_by = run_dir / FOLDER, every_steps, best_by
        self._metrics = run_dir / "metrics.jsonl"
        self._best: float | None = None
        self._best_kept: float | None = None  # the one whose file stands
        self._values: dict[int, float] = {}  # step -> value of checkpoints that may become the best

    def begin(self, steps_done: int, checkpoints: Path) -> None:
        """Find the best so far; that after ``steps_done`` too, when a kill came before it was kept.

        Raises:
            OSError: as the file system says.
        """
        if self.best_by == NONE:
            return
        files = self._best_files()
        steps = {steps_done, *(_step_of(path) for path in files[:1])}
        values = {int(line["step"]): line for line in records_of(self._metrics, steps)}
        if files:
            self._best = self._best_kept = values.get(_step_of(files[0]), {}).get(self.best_by)
        if self.is_better(steps_done, values.get(steps_done, {})):
            written = checkpoint.path_of(checkpoints, steps_done)
            if written.exists():  # else it is about to be written
                self.keep(written)

    def is_milestone(self, step: int) -> bool:
        return bool(self.every_steps) and step % self.every_steps == 0

    def is_better(self, step: int, values: dict[str, float]) -> bool:
        """Whether ``values``, measured after ``step``, are better than all before; its checkpoint is then kept.

        The best is known from here on, not when its file stands: that is written beside the steps that follow.
        """
        value = values.get(self.best_by)
        if value is None or (self._best is not None and not value > self._best):
            return False
        self._best = self._values[step] = value
        return True

    def not_written(self) -> None:
        """After a save that failed: the best is again the one whose file stands, and a lesser one may follow it."""
        self._best = self._best_kept

    def keep(self, written: Path) -> None:
        """After a checkpoint was written, before older ones are removed; the thread that writes them calls this.

        Milestones that are not kept yet, as the run was killed before, are kept now.

        Raises:
            OSError: as the file system says.
        """
        if self.every_steps:
            for path in checkpoint.by_age(written.parent):
                # One that was there before this one was written is of another run in this folder.
                is_new = path == written or not (self.folder / path.name).exists()
                if self.is_milestone(checkpoint.step_in_name(path)) and is_new:
                    self._link(path, path.name)
        value = self._values.pop(checkpoint.step_in_name(written), None)
        if value is not None:
            before = self._best_files()
            name = f"best_{self.best_by}_{written.name}"
            self._link(written, name)
            self._best_kept = value
            if self._best is None or value > self._best:  # written at last, after a failure
                self._best = value
            for path in before:
                if path.name != name:
                    path.unlink(missing_ok=True)
            log.info("the best by %s so far, %.4g, is kept: %s", self.best_by, value, self.folder / name)

    def _best_files(self) -> list[Path]:
        return [path for path in best_files(self.folder) if _metric_of(path) == self.best_by]

    def _link(self, path: Path, name: str) -> None:
        """Give a file a second name, in the place of what stands there."""
        self.folder.mkdir(exist_ok=True)
        temporary = temporary_name(self.folder / name)
        try:
            temporary.hardlink_to(path)
            temporary.replace(self.folder / name)
            flush_folder(self.folder)
        except OSError:  # a file system without links
            with path.open("rb") as file:
                write_atomically(self.folder / name, lambda copy: shutil.copyfileobj(file, copy))
        finally:
            temporary.unlink(missing_ok=True)  # where both names were one file's already, a rename does nothing


def best_files(folder: Path) -> list[Path]:
    """The best checkpoints in a folder of those that stay, the newest first."""
    return sorted(checkpoint.named(folder, _BEST), key=_step_of, reverse=True)


def named_checkpoint(run_dir: Path, name: str) -> Path:
    """The checkpoint of a run that is meant by ``best``, by a number of steps or by the name of a file.

    Raises:
        UserError: there is none; what there is.
    """
    kept, usual = run_dir / FOLDER, run_dir / "checkpoints"
    if name == "best":
        files = {_metric_of(path): path for path in reversed(best_files(kept))}
        if len(files) == 1:
            return next(iter(files.values()))
        reason = f"there are several: {', '.join(path.name for path in files.values())}" if files else _NO_BEST
        raise UserError(f"--checkpoint: no one best checkpoint in {kept}; {reason}")
    folders = (kept, usual)
    choices = [Path(name), *(folder / name for folder in folders)]
    if name.isdecimal():
        choices = [checkpoint.path_of(folder, int(name)) for folder in folders]
    if found := [path for path in choices if path.is_file()]:
        return found[0]
    steps = sorted({checkpoint.step_in_name(path) for folder in folders for path in checkpoint.by_age(folder)})
    there = f"there are those of the steps {', '.join(map(str, steps))}" if steps else "there is none"
    raise UserError(f"--checkpoint: {run_dir} has no checkpoint '{name}'; {there}")


_NO_BEST = "machine.keep_best=online_knn_top1 keeps it, of a run with machine.evaluate_every_epochs"


def _step_of(path: Path) -> int:
    found = _BEST.fullmatch(path.name)
    assert found
    return int(found[2])


def _metric_of(path: Path) -> str:
    found = _BEST.fullmatch(path.name)
    assert found
    return found[1]
