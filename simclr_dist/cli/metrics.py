"""``simclr-dist metrics``: a run's numbers as CSV."""

from pathlib import Path

import click

from simclr_dist.cli.options import PathType, with_debug
from simclr_dist.errors import UserError
from simclr_dist.progress_bar import said_when_slow
from simclr_dist.terminal import say


@click.command()
@click.argument("run_dir", metavar="RUN", type=PathType())
@click.option("--out", type=PathType(), help="The file; an earlier CSV is replaced.  [default: standard output]")
@with_debug
def metrics(run_dir: Path, out: Path | None) -> None:
    """Print the metrics of every step of RUN as CSV.

    The columns are step, epoch, loss, then all others by name. An empty field was not measured in that step, or was not
    finite; numbers have all their digits.
    """
    from simclr_dist.run.metrics_csv import FIRST, as_csv
    from simclr_dist.run.metrics_log import read_records
    from simclr_dist.storage.atomic import write_atomically

    path = run_dir / "metrics.jsonl"
    if not path.exists():
        raise UserError(f"{run_dir}: has no metrics.jsonl; give the run_dir of a pretraining run that has begun")
    with said_when_slow(f"{path}: reading"):
        records, damaged = read_records(path)
        text = as_csv(records)
    if damaged:
        say(f"{path}: lines that are no records of a step, left out here: {len(damaged)}", err=True)
    if out is None:
        say(text, nl=False)
        return
    try:
        if out.exists() and not out.read_bytes().startswith(",".join(FIRST).encode()):
            raise UserError(f"--out: {out} is there and no CSV of a run's metrics; choose another name")
        write_atomically(out, text.encode())
    except OSError as error:
        raise UserError(f"--out: {out} cannot be written: {error.strerror}") from error
    say(f"{out}: {len(records)} steps")
