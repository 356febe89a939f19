"""Which checkpoint of a folder is used, and what is said of those that are not."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from simclr_dist.errors import UserError
from simclr_dist.run import checkpoint
from simclr_dist.run.checkpoint import step_in_name

_SET_ASIDE = re.compile(r"step_(\d+)\.pt\.damaged")


@dataclass(frozen=True, kw_only=True)
class Newest:
    """What a folder has to resume from, or to use."""

    path: Path | None = None
    """The newest checkpoint that is what was written; None: there is none."""
    state: dict[str, Any] = field(default_factory=dict)
    damaged: dict[Path, str] = field(default_factory=dict)
    """Newer ones -> what is wrong with them."""
    set_aside: list[Path] = field(default_factory=list)
    """Newer ones that an earlier start has renamed to ``*.damaged``."""

    @property
    def complaints(self) -> list[str]:
        """Of the damaged ones."""
        return [f"{path}: {reason}" for path, reason in self.damaged.items()]

    def passed_over(self) -> str:
        """What a reader of the run must hear: that this is not its newest checkpoint, and why; "" when it is."""
        reasons = [*self.complaints, *(f"{path}: set aside as damaged by an earlier start" for path in self.set_aside)]
        used = f"{self.path.name} is used, which is not the newest" if self.path else "no checkpoint is intact"
        return f"{used}: {'; '.join(reasons)}" if reasons else ""


def load_newest(folder: Path) -> Newest:
    """The newest checkpoint of a folder that is what was written. Nothing is renamed.

    Raises:
        UserError: one cannot be read now, which is no damage: an older one in its place would be silently another run.
            Or it was written by a newer version of this project, or its name is of another step than its contents.
    """
    damaged: dict[Path, str] = {}
    listed = checkpoint.by_age(folder)
    while listed:
        path = listed.pop(0)
        try:
            state = checkpoint.load(path)
        except checkpoint.DamagedCheckpointError as error:
            damaged[path] = str(error)
            continue
        except FileNotFoundError:  # its run has written newer ones meanwhile, and keeps only so many
            listed = [other for other in checkpoint.by_age(folder) if other not in damaged]
            continue
        if state["step"] != step_in_name(path):
            raise UserError(
                f"{path}: its name says step {step_in_name(path)}, and it is of step {state['step']}; rename it to "
                f"{checkpoint.path_of(folder, state['step']).name}, or move it out of the folder"
            )
        aside = [other for other in checkpoint.named(folder, _SET_ASIDE) if step_in_name(other) > state["step"]]
        return Newest(path=path, state=state, damaged=damaged, set_aside=sorted(aside))
    return Newest(damaged=damaged)


def set_aside(damaged: Iterable[Path]) -> None:
    """Rename damaged checkpoints to ``*.damaged``; only for who writes the folder, and will write their steps again.

    Raises:
        UserError: one cannot be renamed.
    """
    for path in damaged:
        try:
            path.replace(path.with_name(f"{path.name}.damaged"))
        except OSError as error:
            raise UserError(f"{path}: damaged, and cannot be renamed: {error.strerror}; move it away") from error
