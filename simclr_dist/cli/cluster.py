"""``simclr-dist submit``, ``status``, ``logs``, ``cancel`` and ``resume``: a run on a SLURM cluster."""

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from simclr_dist.cli.options import NameType, with_config, with_debug
from simclr_dist.errors import UserError
from simclr_dist.launch.slurm.profiles import resources
from simclr_dist.launch.slurm.resources import LEAST, Resources, from_record
from simclr_dist.progress_bar import ticking_on_terminal
from simclr_dist.run.moved_folder import refuse_moved
from simclr_dist.stop_signals import stop_signals_later
from simclr_dist.terminal import say, typed

_numbers = {name: click.IntRange(min=least) for name, least in LEAST.items()}
_FIELDS = tuple(field.name for field in dataclasses.fields(Resources))


def _with_resources(default: Callable[[str], str]) -> Callable[[Any], Any]:
    """The options of a job; ``default``: how the help says what one that is not given is."""
    options = (
        click.option("--nodes", type=_numbers["nodes"], help=f"Nodes of the job.{default('1')}"),
        click.option("--gpus-per-node", type=_numbers["gpus_per_node"], help=f"One process each.{default('1')}"),
        click.option(
            "--tasks-per-node", type=_numbers["tasks_per_node"], help="Processes a node, where not one a GPU."
        ),
        click.option(
            "--cpus-per-task", type=_numbers["cpus_per_task"], help="Cores of a process: its loader workers use them."
        ),
        click.option("--mem", help="Memory of a node, such as 200G."),
        click.option("--partition", "-p", help="Partition of the cluster."),
        click.option("--time", "-t", help="Time limit, such as 1-00:00 (a day); the run resumes after it by itself."),
        click.option("--account", "-A", help="Account that pays."),
        click.option("--qos", help="Quality of service."),
        click.option("--constraint", help="Features that nodes must have."),
        click.option("--exclude", help="Nodes to leave out."),
        click.option("--container", metavar="IMAGE", help="An image for pyxis, or an Apptainer file (.sif)."),
        click.option("--python", help=f"What starts Python on the nodes.{default('this one')}"),
        click.option(
            "--setup", multiple=True, metavar="LINE", help="Line of the batch script, such as 'module load cuda'."
        ),
        click.option("--sbatch", multiple=True, metavar="KEY=VALUE", help="Any other option of sbatch."),
        click.option(
            "--notice-seconds",
            type=_numbers["notice_seconds"],
            help=f"Before the time limit: save, queue again.{default('120')}",
        ),
        click.option("--gpu-memory", metavar="SIZE", help="Such as 80GB: refuse a run that does not fit."),
        click.option("--profile", type=NameType(), metavar="NAME|FILE", help="YAML with these options for a cluster."),
        click.option("--dry-run", is_flag=True, help="Print the batch script and do nothing."),
        click.option("--follow", is_flag=True, help="Stay and show the log; Ctrl-C leaves the job alone."),
        click.option("--no-data-check", is_flag=True, help="Do not open the images here."),
    )

    def with_options(function: Any) -> Any:
        for option in reversed(options):
            function = option(function)
        return function

    return with_options


def _said(default: str) -> str:
    return f"  [default: {default}]"


def _of_last_submission(_: str) -> str:
    """Nothing: ``resume`` says of all at once that they are those of the last submission."""
    return ""


@click.command()
@with_config
@click.option("--sweep", multiple=True, metavar="KEY=A,B,...", help="A run for each value, as a job array.")
@_with_resources(_said)
@with_debug
def submit(
    config: str, overrides: tuple[str, ...], sweep: tuple[str, ...], profile: str | None, **options: Any
) -> None:
    """Pretrain on a SLURM cluster: one process a GPU, resumed by itself after preemption and time limits.

    What can be checked is checked before the job waits in the queue. Code and config are kept in the run's folder, and
    a requeued job runs those.
    """
    from simclr_dist.launch.slurm.submission import Submission
    from simclr_dist.launch.slurm.sweeps import runs_of

    wanted, path = resources(profile, _given(options))
    base, configs = runs_of(config, overrides, sweep)
    refuse_moved(config, overrides, str(base))
    if path is not None:
        say(f"profile {path}", err=True)
    _submit(Submission(name=Path(config).stem, configs=configs, wanted=wanted, base=base), options)


@click.command()
@click.argument("run", metavar="RUN", type=NameType())
@click.argument("overrides", nargs=-1, metavar="[machine.KEY=VALUE]...")
@click.option("--new-code", is_flag=True, help="Run the present code, not that of the last submission.")
@_with_resources(_of_last_submission)
@with_debug
def resume(run: str, overrides: tuple[str, ...], new_code: bool, profile: str | None, **options: Any) -> None:
    """Submit a run again, on the same or on other hardware: it resumes from its newest checkpoint.

    Options that are not given are those of its last submission.
    """
    from simclr_dist.launch.slurm import records
    from simclr_dist.launch.slurm.submission import Submission
    from simclr_dist.launch.slurm.sweeps import runs_of
    from simclr_dist.launch.slurm.watching import find_run

    run_dir = find_run(run).absolute()
    found = records.records_of(run_dir)
    config = found[-1].config if found else str(run_dir / "config.yaml")
    if not Path(config).is_file():
        raise UserError(f"{run_dir}: holds no run that could be resumed: {config} is missing")
    wrong = [word for word in overrides if not word.startswith("machine.")]
    if wrong:
        raise UserError(f"{wrong[0]}: a run keeps its recipe; only machine.KEY=VALUE may change")
    moved = [word for word in overrides if word.startswith("machine.run_dir=")]
    if moved:
        raise UserError(f"{moved[0]}: RUN says where the run is, {run_dir}; leave it out")
    base, configs = runs_of(config, overrides, base=run_dir)
    given = _given(options)
    if found and profile is None:
        wanted = from_record(found[-1].resources, given)
    else:
        wanted, _ = resources(profile, given)
    code = Path(found[-1].code) if found and not new_code else None
    if code is not None and not code.is_dir():
        raise UserError(f"{code}: the code of the last submission is gone; --new-code runs the present one")
    _submit(Submission(name=run_dir.name, configs=configs, wanted=wanted, base=base, code=code), options)


@click.command()
@click.argument("runs", nargs=-1, metavar="[RUN|JOB]...", type=NameType())
@with_debug
def status(runs: tuple[str, ...]) -> None:
    """Where runs wait or run and how far they are; without an argument all below this folder."""
    from simclr_dist.launch.slurm import records, watching

    found = [each for word in runs for each in _runs_of(word)] if runs else records.runs_under(Path())
    if not found:
        raise UserError("status: no run below this folder was submitted; give a run's folder")
    say(watching.describe(found[0]) if len(found) == 1 else watching.table(found))


@click.command()
@click.argument("run", metavar="RUN|JOB", type=NameType())
@click.option("--rank", type=click.IntRange(min=0), default=0, show_default=True, help="Which process.")
@click.option("--follow", is_flag=True, help="Stay until the job has ended.")
@with_debug
def logs(run: str, rank: int, follow: bool) -> None:
    """What a process of the run's newest job prints, over all its restarts."""
    from simclr_dist.launch.slurm import watching

    run_dir = watching.find_run(run)
    if follow:
        for text in watching.follow(run_dir, rank):
            if not say(text, nl=False):
                return
    else:
        say(watching.written(run_dir, rank), nl=False)


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN|JOB...", type=NameType())
@with_debug
def cancel(runs: tuple[str, ...]) -> None:
    """End the jobs of runs, waiting or running; what was saved stays, and resume starts from there."""
    from simclr_dist.launch.slurm import records, scheduler

    for run_dir in [each for word in runs for each in _runs_of(word)]:
        living = [job.id for job in scheduler.jobs(records.own_jobs(run_dir)) if job.lives]
        if not living:
            origin = next((record.copied_from for record in records.records_of(run_dir) if record.copied_from), "")
            copied = f"; it is a copy of {origin}, whose jobs end with: {typed('cancel', origin)}" if origin else ""
            say(f"{run_dir}: no job of it waits or runs{copied}")
            continue
        scheduler.cancel(living)
        with ticking_on_terminal(f"{run_dir}: waiting for job {', '.join(living)} to end"):  # it saves, in KillWait
            while any(job.lives for job in scheduler.jobs(living)):
                time.sleep(0.5)
        say(f"{run_dir}: job {', '.join(living)} ended; resume it with: {typed('resume', run_dir)}")


def _runs_of(word: str) -> list[Path]:
    """A run, or those of a sweep."""
    from simclr_dist.launch.slurm import records, watching

    folder = watching.find_run(word)
    return records.runs_under(folder) or [folder]


def _given(options: dict[str, Any]) -> dict[str, Any]:
    return {name: options[name] for name in _FIELDS if options.get(name) not in (None, ())}


def _submit(submission: Any, options: dict[str, Any]) -> None:
    from simclr_dist.launch.slurm import watching
    from simclr_dist.launch.slurm.checks import check

    if options["dry_run"]:
        say(submission.script(submission.base / "jobs" / "NNN"), nl=False)
        return
    check(submission.configs, submission.wanted, data=not options["no_data_check"])
    folder, base = submission.prepare(), submission.base
    with stop_signals_later():  # once SLURM has the job, it gets its record, and the user its number
        submitted = submission.hand_in(folder)
        job = submitted[0][1].job.partition("_")[0]
        count = f", {len(submitted)} runs" if len(submitted) > 1 else ""
        say(
            f"job {job}{count}: {submission.wanted.processes} processes each on {submission.wanted.nodes} nodes\n"
            f"run     {base}\n"
            f"follow  {typed('logs', submitted[0][0], '--follow')}\n"
            f"status  {typed('status', base)}\n"
            f"stop    {typed('cancel', base)}\n"
            f"resume  {typed('resume', submitted[0][0])}"
        )
    if options["follow"]:
        for run_dir, _ in submitted:
            for text in watching.follow(run_dir, 0):
                if not say(text, nl=False):
                    return
        say(watching.table([run_dir for run_dir, _ in submitted]))
