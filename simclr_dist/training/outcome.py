"""How a call of :func:`pretraining.pretrain` ended."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Outcome:
    """Of this process."""

    steps_done: int
    total_steps: int
    signal: int | None = None
    """The signal that stopped it, if one did."""
    is_first: bool = True
    """Whether this process was process 0 at the end, and speaks for the run."""
