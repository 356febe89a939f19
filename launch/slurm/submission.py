"""Submitting a run, or a sweep of runs, to SLURM: checks, then a folder with all that the job needs, then sbatch."""

import dataclasses
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from simclr_dist.code_version import code_version
from simclr_dist.config import Config, Recipe, to_yaml
from simclr_dist.config.machine import GO_ON
from simclr_dist.errors import UserError
from simclr_dist.launch.slurm import records, scheduler
from simclr_dist.launch.slurm.batch_script import batch_script, python_command, start_script
from simclr_dist.launch.slurm.code_copy import copy_code
from simclr_dist.launch.slurm.quoting import for_shell
from simclr_dist.launch.slurm.resources import Resources
from simclr_dist.log import log
from simclr_dist.storage.atomic import write_atomically

_SCRIPT = "batch.sh"


@dataclass(frozen=True, kw_only=True)
class Submission:
    """What is to be submitted: one run, or the runs of a sweep as one job array."""

    name: str
    configs: tuple[Config, ...]
    wanted: Resources
    base: Path
    """The run's folder; of a sweep, the folder that holds the runs'."""
    code: Path | None = None
    """Code of an earlier submission; None: a copy of the present one."""

    @property
    def is_array(self) -> bool:
        return len(self.configs) > 1

    @property
    def goes_on(self) -> bool:
        """Whether a job goes on when a process or a node is lost."""
        return any(config.machine.on_lost_process == GO_ON for config in self.configs)

    def script(self, folder: Path) -> str:
        """The batch script, for a submission's folder."""
        config = for_shell(folder / "config.yaml")
        if self.is_array:
            config = f'{for_shell(folder / "config_")}"$SLURM_ARRAY_TASK_ID".yaml'
        return batch_script(
            self.wanted,
            name=self.name,
            folder=folder,
            code=self._code(folder),
            arguments=f"pretrain {config}",
            mounts=self._mounts(),
            tasks=len(self.configs) if self.is_array else 0,
            goes_on=self.goes_on,
        )

    def prepare(self) -> Path:
        """Write the folder, and ask SLURM whether it would take the job.

        Raises:
            UserError: it would not, or the folder cannot be written; nothing is left behind then.
        """
        folder = records.new_folder(self.base)
        with _removed_on_failure(folder):
            self._write(folder)
            if why := scheduler.check_only(folder / _SCRIPT):
                log.warning("%s", why)
        return folder

    def hand_in(self, folder: Path) -> list[tuple[Path, records.JobRecord]]:
        """Call sbatch for a prepared folder; each run's folder with its record.

        Raises:
            UserError: SLURM refuses, and the folder is removed; or there is no record of the job, which is ended; or
                SLURM has perhaps taken the job, and the folder stays.
        """
        with _removed_on_failure(folder):
            number = scheduler.submit(folder / _SCRIPT)
        try:
            return [self._record(folder, number, task) for task in range(len(self.configs))]
        except UserError as error:
            raise UserError(f"{error}; {_taken_back(number)}; mend that, then start again") from error

    def _code(self, folder: Path) -> Path:
        return self.code or folder / "code"

    def _write(self, folder: Path) -> None:
        code = self._code(folder)
        if self.code is None:
            copy_code(code)
        for task, config in enumerate(self.configs):
            write_atomically(folder / self._config_name(task), to_yaml(config).encode())
        start = folder / "start"
        start.write_text(
            start_script(folder, code, python_command(self.wanted), goes_on=self.goes_on), encoding="utf-8"
        )
        start.chmod(0o755)
        (folder / _SCRIPT).write_text(self.script(folder), encoding="utf-8")

    def _record(self, folder: Path, number: str, task: int) -> tuple[Path, records.JobRecord]:
        record = records.JobRecord(
            job=f"{number}_{task}" if self.is_array else number,
            folder=str(folder),
            config=str(folder / self._config_name(task)),
            code=str(self._code(folder)),
            version=code_version() if self.code is None else "of an earlier submission",
            submitted_at=datetime.now().astimezone().isoformat(timespec="seconds"),
            resources=dataclasses.asdict(self.wanted),
            processes=self.wanted.processes,
        )
        run_dir = Path(self.configs[task].machine.run_dir)
        records.write(records.new_folder(run_dir) if self.is_array else folder, record)
        return run_dir, record

    def _config_name(self, task: int) -> str:
        return f"config_{task}.yaml" if self.is_array else "config.yaml"

    def _mounts(self) -> list[Path]:
        code = [self.code] if self.code else []  # of a sweep's run it stands beside the run's folder
        wanted = [Path.cwd(), self.base, *code, *(place for config in self.configs for place in _places(config.recipe))]
        found = [path for path in dict.fromkeys(wanted) if str(path) != "."]
        return [path for path in found if not any(path != other and path.is_relative_to(other) for other in found)]


@contextmanager
def _removed_on_failure(folder: Path) -> Iterator[None]:
    try:
        yield
    except scheduler.UnheardError:
        raise
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _taken_back(job: str) -> str:
    """End a job that no record knows, which nobody would find again; what became of it."""
    try:
        scheduler.cancel([job])
    except UserError as refused:
        return f"job {job} is submitted and unknown here ({refused}): end it with: scancel {job}"
    return f"job {job}, which was submitted already, is ended"


def _places(recipe: Recipe) -> list[Path]:
    """Folders of what a run reads: its images, and the weights that it begins with."""
    weights = Path(recipe.initial.weights)
    return [Path(recipe.data.path), weights if weights.is_dir() else weights.parent]
