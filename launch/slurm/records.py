"""What was submitted for a run: a folder a submission, ``RUN_DIR/jobs/001``, with its record beside script and logs."""

import dataclasses
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simclr_dist.errors import UserError
from simclr_dist.storage.atomic import write_atomically

_NAME = "job.json"


class UnreadableError(UserError):
    """A file is no record of a job."""


@dataclass(frozen=True, kw_only=True)
class JobRecord:
    """One submission of one run."""

    job: str
    """SLURM's number, with the task of an array: 12 or 12_3."""
    folder: str
    """Of script and logs; of an array, that of all its tasks."""
    config: str
    code: str
    version: str
    submitted_at: str
    resources: dict[str, Any]
    processes: int
    kept_in: str = ""
    """Where :func:`write` put it, in the run's own folder; "" of an earlier version."""
    copied_from: str = ""
    """Of a copy of a run's folder, whose jobs are not its own: that run's; not in the file."""

    def log_of(self, rank: int) -> Path:
        """Where a process writes; it continues there after a requeue."""
        return Path(self.folder) / f"{self.job}_{rank}_log.out"


def new_folder(run_dir: Path) -> Path:
    """The folder of the next submission.

    Raises:
        UserError: it cannot be made.
    """
    parent = run_dir / "jobs"
    try:
        parent.mkdir(parents=True, exist_ok=True)
        last = max((int(path.name) for path in parent.iterdir() if path.name.isdecimal()), default=0)
        folder = parent / f"{last + 1:03d}"
        folder.mkdir()
    except OSError as error:
        raise UserError(f"machine.run_dir: {parent} cannot be written: {error.strerror}") from error
    return folder


def write(folder: Path, record: JobRecord) -> None:
    """Keep it in a run's own folder of the submission.

    Raises:
        UserError: it cannot be written.
    """
    content = dataclasses.asdict(record) | {"kept_in": str(folder.absolute())}
    del content["copied_from"]
    try:
        write_atomically(folder / _NAME, json.dumps(content, indent=1).encode())
    except OSError as error:
        raise UserError(f"{folder / _NAME} cannot be written: {error.strerror}") from error


def records_of(run_dir: Path) -> list[JobRecord]:
    """All submissions of a run, the oldest first; paths as they are now where its folder was moved.

    Raises:
        UnreadableError: one is no record.
    """
    return [_read(path) for path in _files_of(run_dir)]


def own_jobs(run_dir: Path) -> list[str]:
    """The jobs of a run, the oldest first, without those of the run that its folder is a copy of.

    Raises:
        UnreadableError: a record is none.
    """
    return [record.job for record in records_of(run_dir) if not record.copied_from]


def runs_under(folder: Path) -> list[Path]:
    """Run folders at or below ``folder`` (three levels) for which jobs were submitted, in order of name."""
    patterns = [f"{'*/' * depth}jobs/*/{_NAME}" for depth in range(4)]
    return sorted({path.parents[2] for pattern in patterns for path in folder.glob(pattern)})


def last_record(run_dir: Path) -> JobRecord:
    """The newest submission.

    Raises:
        UserError: nothing was submitted for this run.
        UnreadableError: it is no record.
    """
    found = _files_of(run_dir)
    if not found:
        raise UserError(f"{run_dir}: no job was submitted for it; submit one with: simclr-dist submit CONFIG")
    return _read(found[-1])


def _files_of(run_dir: Path) -> list[Path]:
    """The records' files, the oldest submission first: 1000 after 999."""

    def age(path: Path) -> tuple[int, str]:
        name = path.parent.name
        return int(name) if name.isdecimal() else 0, name

    return sorted(run_dir.glob(f"jobs/*/{_NAME}"), key=age)


def _read(path: Path) -> JobRecord:
    try:
        return _as_found(JobRecord(**json.loads(path.read_text(encoding="utf-8"))), path.parent.absolute())
    except (OSError, ValueError, TypeError) as error:
        raise UnreadableError(f"{path}: cannot be read as a job's record; remove it to continue without") from error


def _as_found(record: JobRecord, here: Path) -> JobRecord:
    """A record with the paths of what it names, as seen from where it stands: its folder may not be where it was."""
    kept = record.kept_in or ("" if "_" in record.job else record.folder)  # an array's folder is that of all its runs
    if not kept or Path(kept) == here:
        return record

    run_dir = Path(kept).parent.parent

    def now(place: str) -> str:
        moved = os.path.normpath(here / os.path.relpath(Path(place), kept))
        # What stood in the run's folder moved along; what stood beside, of a sweep, only where all of it was moved.
        places = (moved, place) if Path(place).is_relative_to(run_dir) else (place, moved)
        return next((each for each in places if os.path.exists(each)), place)

    return dataclasses.replace(
        record,
        folder=now(record.folder),
        config=now(record.config),
        code=now(record.code),
        copied_from=str(run_dir) if _still_holds(Path(kept), record.job, here) else "",
    )


def _still_holds(kept: Path, job: str, here: Path) -> bool:
    """Whether the record of a job still stands where it was put, which is not ``here``."""
    try:
        return not kept.samefile(here) and json.loads((kept / _NAME).read_text(encoding="utf-8"))["job"] == job
    except (OSError, ValueError, TypeError, KeyError):
        return False
