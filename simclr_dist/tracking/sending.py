"""A run to its trackers: beside the training, in a process of its own, or afterwards."""

import os
import select
import signal
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from simclr_dist.config.filling import filled, refuse_shape
from simclr_dist.config.tracking import Tracking
from simclr_dist.reporting.facts import read_config
from simclr_dist.tracking.facts import read_about
from simclr_dist.tracking.feed import Feed
from simclr_dist.tracking.lines import Lines
from simclr_dist.tracking.mlflow_ import MlflowSink
from simclr_dist.tracking.sink import Sink, Tell
from simclr_dist.tracking.state import State, sending_alone
from simclr_dist.tracking.wandb_ import WandbSink

_SECONDS_BETWEEN_SENDINGS = 5.0
# Of a process whose run was killed: to send what is there. Then it ends, wherever its library waits.
_SECONDS_AFTER_A_KILL = 300


def tracking_of(run_dir: Path, given: Mapping[str, Mapping[str, Any]]) -> Tracking:
    """What is wanted of a run: by ``given`` (wandb or mlflow -> keys), else by ``track`` before, else by its config.

    Raises:
        UserError: an unknown key, or a value that does not fit.
    """
    machine = read_config(run_dir / "config.yaml").get("machine")
    stored = machine.get("tracking", {}) if isinstance(machine, dict) else {}
    keys = {}
    for tracker in ("wandb", "mlflow"):
        keys[tracker] = {**stored.get(tracker, {}), **State(run_dir, tracker).chosen(), **given.get(tracker, {})}
    refuse_shape(keys, Tracking, "machine.tracking.")
    return filled(Tracking, keys, "machine.tracking.")


def remember(run_dir: Path, given: Mapping[str, Mapping[str, Any]]) -> None:
    """``given`` is wanted the next time too, without being said."""
    for tracker, keys in given.items():
        State(run_dir, tracker).choose(dict(keys))


def open_sink(run_dir: Path, tracker: str, tracking: Tracking, tell: Tell, trainer: int | None = None) -> Sink:
    """The run in one tracker, ``wandb`` or ``mlflow``, begun or resumed.

    Raises:
        Exception: whatever its library raises.
    """
    about = read_about(run_dir)
    if tracker == "wandb":
        return WandbSink(about, tracking.wandb, tell, trainer=trainer)
    return MlflowSink(about, tracking.mlflow, tell)


def send_all(
    run_dir: Path,
    tracker: str,
    tracking: Tracking,
    tell: Tell,
    progress: Callable[[int], object] = lambda steps: None,
    *,
    as_new: bool = False,
) -> Exception | None:
    """Send what a tracker lacks of a run that is over, or stands still; the error that stopped it, if one did.

    ``as_new``: all of it, as another run there.

    Raises:
        UserError: another process sends this run now.
    """
    with sending_alone(run_dir, tracker):
        if as_new:  # not before: the ids are those of the process that sends the run now
            State(run_dir, tracker).forget_runs()
        feed = Feed(partial(open_sink, run_dir, tracker, tracking, tell), _lines_of(run_dir), lambda line: None)
        if feed.send(progress):
            feed.finish(finished=_is_finished(run_dir, feed.sent_step))
        return feed.error


def follow(run_dir: Path, tracker: str) -> int:
    """In a process that a training has started: send its steps as they come until it has ended or is gone.

    Lines for its user go to the standard output, one each; whatever the libraries print goes where errors go.

    Returns:
        the status to end with: 0 when all was sent.
    """
    parent = os.getppid()
    for number in (signal.SIGINT, signal.SIGTERM):  # the training's to answer: it says when it has ended
        signal.signal(number, signal.SIG_IGN)
    os.nice(10)
    tell = partial(_write_line, os.dup(1))
    os.dup2(2, 1)
    # Of a run killed a moment ago the process like this one may still be sending.
    with sending_alone(run_dir, tracker, patience_seconds=_SECONDS_AFTER_A_KILL + 10):
        tracking = tracking_of(run_dir, {})
        feed = Feed(partial(open_sink, run_dir, tracker, tracking, tell, parent), _lines_of(run_dir), tell)
        while not _has_ended(parent):
            feed.send()
        if os.getppid() != parent:
            signal.alarm(_SECONDS_AFTER_A_KILL)
        if feed.send(now=True):
            feed.finish(finished=_is_finished(run_dir, feed.sent_step))
    return 0 if feed.error is None else 1


def _lines_of(run_dir: Path) -> Callable[[int], Lines]:
    return partial(Lines, run_dir / "metrics.jsonl")


def _is_finished(run_dir: Path, step: int) -> bool:
    total = read_about(run_dir).total_steps
    return total is not None and step >= total


def _has_ended(parent: int) -> bool:
    """Whether the training has written to, or closed, our standard input; or is gone, while its loader workers still
    hold that. Waits for a moment.
    """
    ready, _, _ = select.select([0], [], [], _SECONDS_BETWEEN_SENDINGS)
    return bool(ready) or os.getppid() != parent


def _write_line(descriptor: int, line: str) -> None:
    try:
        os.write(descriptor, f"{' '.join(line.split())}\n".encode())
    except OSError:  # nobody is there to read it
        return
