"""Where a run's numbers went wrong: a table, and marks on the curve of its loss."""

from collections.abc import Sequence
from typing import Any

from simclr_dist.guards.anomalies import WARN
from simclr_dist.reporting import tables
from simclr_dist.reporting.facts import Facts
from simclr_dist.reporting.marks import Mark
from simclr_dist.reporting.markup import Html

_DONE = {
    "warn": "continued",
    "skip": "skipped the step",
    "go_back": "went back to the rollback point",
    "stop": "stopped",
}


def anomaly_table(found: Sequence[dict[str, Any]]) -> Html:
    """Every anomaly with what the run did and where the numbers went wrong, the newest last."""
    body = [[each["step"], each["message"], _done(each), each.get("where", "")] for each in found]
    return tables.rows(["step", "found", "the run", "where"], body)


def anomaly_marks(runs: Sequence[Facts]) -> list[Mark]:
    """A bar over the whole height of the loss at each anomaly, red where the run did not just continue."""
    losses = [loss for run in runs for line in run.metrics if (loss := line.get("loss")) is not None]
    low, high = min(losses, default=0.0), max(losses, default=0.0)
    return [
        Mark(each["step"], low, high, each["action"] == WARN,
             f"{run.name}: {each['message']} at step {each['step']}; it {_done(each)}")
        for run in runs
        for each in run.anomalies
    ]  # fmt: skip


def _done(entry: dict[str, Any]) -> str:
    return _DONE.get(entry["action"], str(entry["action"]))
