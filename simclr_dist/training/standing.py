"""What a process can go on from when another is lost: the state after a step, and the numbers of the steps before."""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor

from simclr_dist.distributed.processes import Processes
from simclr_dist.log import log
from simclr_dist.run.state_copy import StateCopy, mapped
from simclr_dist.training.opened import Opened
from simclr_dist.training.outcome import Outcome

Numbers = dict[str, float]


class MoreProcessesError(Exception):
    """All processes raise it together between two steps: others have come, and the run can be shared by more."""


class LeftError(Exception):
    """This process leaves the run to the others, which go on."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__("its job stops")
        self.outcome = outcome


class Origin(NamedTuple):
    """What a run began with: found at its start, and asked for never again."""

    images: dict[str, Any]
    """What describes them, as checkpoints keep it."""
    initial_sha256: str
    """recipe.initial.sha256, of the weights that were read."""


@dataclass(frozen=True)
class Kept:
    """The state of a run after ``step`` steps, in memory."""

    step: int
    states: dict[str, Any]
    """Name in a checkpoint -> ``state_dict()``."""
    origin: Origin
    numbers: list[Numbers] = field(default_factory=list)
    """Of the last steps, oldest first: what process 0 may not have written yet."""


class Standing:
    """Holds a copy of the state from before the step that is being done; every process makes one.

    A process is lost between others' updates: some have done a step, of others' state it is unknown how much of the
    step is in it. All can go back to the copy.
    """

    def __init__(
        self, state_of: dict[str, Any], steps_done: int, origin: Origin, numbers: list[Numbers], most_numbers: int
    ) -> None:
        """
        Args:
            state_of: name -> module, optimizer, ..., each with ``state_dict``.
            steps_done: after which they stand now.
            origin: what the run began with.
            numbers: of the steps before.
            most_numbers: of how many steps they are kept.
        """
        self._state_of, self._done, self._origin = state_of, steps_done, origin
        self._numbers = deque(numbers, maxlen=most_numbers)
        self._memory = StateCopy()
        self._copy: Kept | None = None
        self._in_step = False

    def begin_step(self) -> None:
        """Copy the state: the next step may change anything from here on."""
        self._in_step = True
        self._copy = None  # its memory is written anew
        self._copy = Kept(self._done, self._memory.of(self._states()), self._origin)

    def end_step(self, numbers: Numbers) -> None:
        """The step is done, with all that belongs to it."""
        self._done += 1
        self._numbers.append(numbers)
        self._in_step = False

    @property
    def steps(self) -> list[int]:
        """After which this process has the state."""
        copied = [self._copy.step] if self._copy else []
        return copied if self._in_step else list(dict.fromkeys([self._done, *copied]))

    def after(self, step: int) -> Kept:
        """The state after one of :attr:`steps`; no later step of the objects changes it."""
        numbers = [each for each in self._numbers if each["step"] <= step]
        if self._copy and self._copy.step == step:
            return Kept(step, self._copy.states, self._origin, numbers)
        assert step in self.steps
        return Kept(step, mapped(self._states(), _on_host), self._origin, numbers)

    def _states(self) -> dict[str, Any]:
        return {name: target.state_dict() for name, target in self._state_of.items()}


def _on_host(tensor: Tensor) -> Tensor:
    """A copy that other processes can be sent, whatever their GPUs' numbers are."""
    return tensor.detach().to("cpu", copy=True)


@dataclass
class Ground:
    """What a group begins with, and what it leaves to the next."""

    kept: Kept | None = None
    """The state to begin with; None: as any start, from the newest checkpoint or the first weights."""
    standing: Standing | None = None
    """Set by the trainer once it has a state."""
    opened: Opened | None = None
    """Set by the trainer: it does not depend on the processes."""
    can_grow: Callable[[], bool] = lambda: False
    """Whether more processes could take part; asked at the start of a step."""
    is_guest: bool = False
    """Whether this process is of another job than the run's: a signal that stops it does not stop the run."""
    lost_at: float | None = None
    """When the group before this one broke, by ``time.monotonic``."""

    @property
    def numbers(self) -> list[Numbers]:
        """Of the steps before it, where it has a state to begin with."""
        return self.kept.numbers if self.kept else []

    @property
    def steps(self) -> list[int]:
        """After which this process could go on."""
        if self.standing:
            return self.standing.steps
        return [self.kept.step] if self.kept else []

    def after(self, step: int | None) -> Kept | None:
        """The state after ``step``; None where this process does not have it."""
        if step is None or step not in self.steps:
            return None
        return self.standing.after(step) if self.standing else self.kept


class Gap:
    """How long the run stood still; said by process 0 after the first step of a group that went on."""

    def __init__(self, lost_at: float | None) -> None:
        self._lost_at = lost_at

    def after_step(self, processes: Processes) -> None:
        if self._lost_at is not None and processes.is_first:
            seconds = time.monotonic() - self._lost_at
            log.warning("%d processes go on, %.1f s after the loss was known", processes.count, seconds)
        self._lost_at = None
