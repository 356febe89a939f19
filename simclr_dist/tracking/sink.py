"""What a tracker is to this project: something that is told a run's records, in order, once each."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

Record = dict[str, float]
"""A line of metrics.jsonl: ``step`` and the numbers of that step, None where one was not finite."""
Tell = Callable[[str], None]
"""What takes a line for the user."""


@dataclass(frozen=True)
class About:
    """What is known of a run beside its metrics."""

    run_dir: Path
    config: dict[str, Any]
    """Its config.yaml, nested; without machine.tracking, which may hold a password."""
    code: str
    """Version and, where known, commit of what computed it last; "" for a run of an earlier version."""
    total_steps: int | None

    @property
    def name(self) -> str:
        return self.run_dir.resolve().name


class Sink(Protocol):
    """One run in one tracker. Every method may raise whatever the tracker's library raises."""

    last_step: int
    """The newest step that is there already: what comes is later."""

    def send(self, records: Sequence[Record]) -> None:
        """Records of steps that rise."""

    def caught_up(self) -> None:
        """All that metrics.jsonl has was sent."""

    def send_results(self) -> None:
        """What stands in the run folder now: evaluations, the report, the config. Sent again it changes nothing."""

    def close(self, *, finished: bool) -> None:
        """The run has come to its last step (``finished``), or has stopped before."""


def finite(value: float | None) -> float:
    """A number of metrics.jsonl as trackers take it: what was not finite is NaN, not a gap."""
    return float("nan") if value is None else float(value)
