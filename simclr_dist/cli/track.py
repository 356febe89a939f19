"""``simclr-dist track``: a run to Weights & Biases and MLflow, beside its training or afterwards."""

from pathlib import Path
from typing import Any

import click

from simclr_dist.cli.options import PathType, with_debug, with_overrides
from simclr_dist.errors import UserError, first_line
from simclr_dist.terminal import say, typed


@click.command()
@click.argument("run_dir", metavar="RUN", type=PathType())
@with_overrides
@click.option("--as-new", is_flag=True, help="As a run of its own there, beside the one that was sent before.")
@click.option("--follow", type=click.Choice(["wandb", "mlflow"]), hidden=True)
@with_debug
def track(run_dir: Path, overrides: tuple[str, ...], as_new: bool, follow: str | None) -> int:
    """Send RUN to Weights & Biases or MLflow: metrics, config, evaluations, report; what is there is not sent again.

    KEY=VALUE are keys of machine.tracking, such as wandb.project=simclr or mlflow.experiment=simclr. Those of the run's
    config, and of this command before, hold without being said.
    """
    from simclr_dist.progress_bar import said_when_slow, showing_progress
    from simclr_dist.run.metrics_log import last_metrics
    from simclr_dist.run.trackers import refuse_missing, refuse_run_dir
    from simclr_dist.tracking import sending

    if not (run_dir / "metrics.jsonl").exists():
        raise UserError(f"{run_dir}: has no metrics.jsonl; give the run_dir of a pretraining run that has begun")
    if follow:
        return sending.follow(run_dir, follow)
    given = _nested(overrides)
    tracking = sending.tracking_of(run_dir, given)
    if not tracking.asked_for:
        raise UserError("machine.tracking: names no tracker; add wandb.project=NAME or mlflow.experiment=NAME")
    refuse_missing(tracking)
    refuse_run_dir(run_dir, tracking)
    sending.remember(run_dir, given)
    status, steps = 0, int(last_metrics(run_dir / "metrics.jsonl").get("step", 0))
    for tracker in tracking.asked_for:
        with (
            said_when_slow(f"{tracker}: sending {run_dir}", write=lambda line: say(line, err=True)),
            showing_progress(steps, unit="steps", label=tracker) as progress,
        ):
            error = sending.send_all(run_dir, tracker, tracking, _teller(tracker), progress, as_new=as_new)
        if error is not None:
            say(f"{tracker}: {type(error).__name__}: {first_line(error)}; start the command again later", err=True)
            status = 1
        else:
            say(f"{tracker}: has all of {run_dir}, to step {steps}")
    return status


def say_how_to_track(run_dir: Path) -> None:
    """After something new stands in a run's folder: the command that sends it, where the run is tracked at all."""
    from simclr_dist.run.trackers import tracking_folder

    if tracking_folder(run_dir).is_dir():
        say(f"to send it to where the run is tracked: {typed('track', run_dir)}")


def _teller(tracker: str) -> Any:
    return lambda line: say(f"{tracker}: {line}")


def _nested(overrides: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """wandb or mlflow -> its keys, out of ``wandb.project=x``; ``machine.tracking.`` may stand before it."""
    found: dict[str, dict[str, Any]] = {}
    for override in overrides:
        key, equals, value = override.removeprefix("machine.tracking.").partition("=")
        tracker, dot, name = key.partition(".")
        if not (equals and dot) or tracker not in ("wandb", "mlflow"):
            raise UserError(f"{override}: write wandb.project=NAME or mlflow.experiment=NAME, for example")
        found.setdefault(tracker, {})[name] = value
    return found
