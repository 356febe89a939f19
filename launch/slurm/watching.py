"""What a person wants to know of a run on a cluster: where it waits or runs, how far it is, what it prints."""

import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from simclr_dist.config.metric import ONLINE
from simclr_dist.errors import UserError
from simclr_dist.launch.slurm import records, scheduler
from simclr_dist.launch.slurm.job import LIVING
from simclr_dist.run.console import duration
from simclr_dist.run.descriptions import read_method, read_metric_descriptions
from simclr_dist.run.metrics_log import last_metrics, read_run_facts

UNKNOWN = "UNKNOWN"
"""State of a job while SLURM's controller does not answer."""


def find_run(word: str) -> Path:
    """The run folder of RUN or JOB.

    Raises:
        UserError: there is no such folder, or no run below this folder has the job.
    """
    if not word.replace("_", "").isdigit() or Path(word).is_dir():
        if Path(word).is_dir():
            return Path(word)
        raise UserError(f"{word}: no such run folder")
    for run_dir in records.runs_under(Path()):
        with suppress(records.UnreadableError):
            if any(word in (job, job.partition("_")[0]) for job in records.own_jobs(run_dir)):
                return run_dir
    raise UserError(f"job {word}: no run folder below this folder has it; give the run's folder")


def describe(run_dir: Path) -> str:
    """Some lines about one run."""
    lines = [f"run      {run_dir}"]
    found = records.records_of(run_dir)
    if found:
        record = found[-1]
        state, description = _state(record)
        lines.append(f"job      {record.job}: {description}")
        lines.append(f"code     {record.version}, submitted {record.submitted_at}, {record.processes} processes")
        lines += [f"why      {words}" for words in _last_words(record, state)]
    lines.append(f"method   {read_method(run_dir) or '-'}")
    lines.append(f"step     {_progress(run_dir)}")
    lines.append(f"saved    {_saved(run_dir)}")
    if found:
        lines.append(f"log      {found[-1].log_of(0)}")
    return "\n".join(lines)


def table(run_dirs: Sequence[Path]) -> str:
    """A line a run."""
    rows = [("run", "job", "state", "method", "step", "loss", "headline", "online kNN", "images/s")]
    for run_dir in run_dirs:
        line = last_metrics(run_dir / "metrics.jsonl")
        try:
            record = records.last_record(run_dir)
            job, state = "-" if record.copied_from else record.job, _state(record)[0]
        except records.UnreadableError:
            job, state = "-", "UNREADABLE"  # status RUN names the file
        knn = line.get("online_knn_top1")
        rows.append(
            (
                str(run_dir), job, state, read_method(run_dir) or "-", _steps(run_dir, line),
                _number(line, "loss", ".4f"), _headline(run_dir, line) or "-",
                "-" if knn is None else ONLINE["online_knn_top1"].shown(knn), _number(line, "images_per_second", ".0f"),
            )
        )  # fmt: skip
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _headline(run_dir: Path, line: dict[str, float]) -> str:
    """The metric that the run's method leads with; "" when it is not known or not there."""
    for name, metric in read_metric_descriptions(run_dir, read_method(run_dir)).items():
        if metric.role == "headline" and line.get(name) is not None:
            return f"{metric.title} {metric.shown(line[name])}"
    return ""


def follow(run_dir: Path, rank: int, every_seconds: float = 1.0) -> Iterator[str]:
    """What a process of the newest job prints, from the beginning, until the job has ended; state changes between."""
    record = records.last_record(run_dir)
    path, reported, offset = record.log_of(rank), "", 0
    while True:
        state, text = _state(record)
        lives = state in (*LIVING, UNKNOWN)
        if state != reported and (state == "PENDING" or reported):
            yield f"-- job {record.job}: {text}\n"
        reported = state
        if path.exists():
            with path.open(encoding="utf-8", errors="replace") as file:
                file.seek(offset)
                yield file.read()
                offset = file.tell()
        if not lives:
            return
        time.sleep(every_seconds)


def written(run_dir: Path, rank: int) -> str:
    """What a process of the newest job has printed so far.

    Raises:
        UserError: nothing yet, or there is no such process.
    """
    record = records.last_record(run_dir)
    path = record.log_of(rank)
    if path.exists():
        return path.read_text(encoding="utf-8", errors="replace")
    if rank >= record.processes:
        raise UserError(f"--rank: job {record.job} has {record.processes} processes, 0 to {record.processes - 1}")
    raise UserError(f"{run_dir}: job {record.job} has printed nothing yet: {_state(record)[1]}")


def _state(record: records.JobRecord) -> tuple[str, str]:
    """One word, and a line."""
    if record.copied_from:
        return "COPIED", f"that of {record.copied_from}, of which this folder is a copy"
    try:
        found = scheduler.jobs([record.job])
    except scheduler.ControllerAwayError as away:
        return UNKNOWN, str(away)
    if not found:
        return "FORGOTTEN", "SLURM does not remember it any more: it has ended"
    return found[-1].state, found[-1].description()


def _last_words(record: records.JobRecord, state: str) -> list[str]:
    """What the processes of a job that failed complained of, each complaint once."""
    if state not in ("FAILED", "OUT_OF_MEMORY", "NODE_FAIL", "TIMEOUT"):
        return []
    found = []
    for rank in range(record.processes):
        path = record.log_of(rank)
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
        found += [line for line in lines if line.startswith("simclr-dist")][-1:]
    return list(dict.fromkeys(found)) or ["no process said why; see the log"]


def _progress(run_dir: Path) -> str:
    line, facts = last_metrics(run_dir / "metrics.jsonl"), read_run_facts(run_dir)
    if not line:
        return "none done yet"
    parts = [_steps(run_dir, line), f"loss {_number(line, 'loss', '.4f')}", _headline(run_dir, line)]
    speed = f"{_number(line, 'images_per_second', '.0f')} images/s"
    if "processes" in line:  # not in the lines of earlier versions
        speed += f" of {_number(line, 'processes', '.0f')} processes"
    text = "  ".join(part for part in [*parts, speed] if part)
    if "total_steps" in facts and "step_seconds" in line and line["step"] < facts["total_steps"]:
        text += f"  {duration((facts['total_steps'] - line['step']) * line['step_seconds'])} left when it runs"
    return text


def _steps(run_dir: Path, line: dict[str, float]) -> str:
    total = read_run_facts(run_dir).get("total_steps")
    return f"{int(line.get('step', 0))}{f' of {total}' if total else ''}"


def _saved(run_dir: Path) -> str:
    newest = max((run_dir / "checkpoints").glob("step_*.pt"), default=None)
    if newest is None:
        return "no checkpoint yet"
    age = time.time() - newest.stat().st_mtime  # another host's clock may be ahead
    return f"{newest.name}, {duration(max(0.0, age))} ago"


def _number(line: dict[str, float], key: str, form: str) -> str:
    value = line.get(key)
    return "-" if value is None else format(value, form)
