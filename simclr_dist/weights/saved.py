"""A saved state of a pretraining run: its folder's newest, or that of one checkpoint."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simclr_dist.errors import UserError
from simclr_dist.run import checkpoint
from simclr_dist.run.newest import load_newest


@dataclass(frozen=True, kw_only=True)
class SavedState:
    """What a checkpoint of a run holds."""

    path: Path
    """Of the checkpoint."""
    state: dict[str, Any]
    """With ``model`` and ``recipe`` at least."""
    name: str
    """Of the run folder or the file that was given."""
    remark: str = ""
    """Why it is not the newest of its run; "" when nothing is to be said."""

    @property
    def steps_done(self) -> int:
        return int(self.state["step"])

    @property
    def source(self) -> str:
        """Where it comes from, for people."""
        return f"{self.name}, step {self.steps_done}"


def saved_state(path: Path) -> SavedState:
    """The state in a run folder (its newest intact checkpoint) or in a checkpoint.

    Raises:
        UserError: there is none, it cannot be read, or it is not of a pretraining run.
    """
    found = _of_run(path) if path.is_dir() else _of_checkpoint(path)
    if missing := [part for part in ("recipe", "model") if part not in found.state]:
        raise UserError(f"{found.path}: not of a pretraining run, as it holds no {' and no '.join(missing)}")
    return found


def _of_run(run_dir: Path) -> SavedState:
    newest = load_newest(run_dir / "checkpoints")
    if newest.path is None:
        reason = f": {'; '.join(newest.complaints)}" if newest.damaged else "; give the run_dir of a pretraining run"
        raise UserError(f"{run_dir}: no checkpoint in it{reason}")
    return SavedState(path=newest.path, state=newest.state, name=run_dir.resolve().name, remark=newest.passed_over())


def _of_checkpoint(path: Path) -> SavedState:
    try:
        state: dict[str, Any] = checkpoint.load(path)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    except checkpoint.DamagedCheckpointError as error:
        raise UserError(f"{path}: {error}") from error
    newer = [other for other in checkpoint.by_age(path.parent) if checkpoint.step_in_name(other) > state["step"]]
    # Who names one of the steps means that one; last.pt promises the newest.
    is_link = (path.is_symlink() or path.name == checkpoint.LAST) and newer
    remark = f"{path.name} points at step {state['step']}, and {newer[0].name} is newer" if is_link else ""
    return SavedState(path=path, state=state, name=path.name, remark=remark)
