"""Who started this process: what torchrun, srun and the MPI launchers say in the environment."""

import os
import re
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from simclr_dist.errors import UserError

LOCAL = "SIMCLR_DIST_LAUNCHER"
"""Variable with the process id of this project's own launcher (launch/local.py), in the processes that it starts."""

SRUN = "srun"
"""The name of SLURM's launcher."""


@dataclass(frozen=True)
class Launcher:
    """The variables of one launcher; it started this process when the first of them is set."""

    name: str
    rank: str
    count: str
    local_rank: str
    local_count: str
    read_local_count: Callable[[str, Mapping[str, str]], int] = lambda text, _: int(text)
    sign: str = ""
    """A variable that must be set too: another launcher sets the first as well."""


def tasks_of_this_node(text: str, environment: Mapping[str, str]) -> int:
    """SLURM's list of tasks a node, as in ``4(x3),2``, at SLURM_NODEID."""
    counts: list[int] = []
    for part in text.split(","):
        found = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part)
        if found is None:
            raise ValueError(text)
        counts += [int(found[1])] * int(found[2] or 1)
    node = int(environment.get("SLURM_NODEID", 0))
    if node >= len(counts):
        raise ValueError(text)
    return counts[node]


# In this order: mpirun inside a SLURM job starts its helpers with srun, so srun's variables are there too and wrong;
# torchrun may run under either. SLURM_STEP_* and not SLURM_NTASKS, which a batch script has where nothing was started.
LAUNCHERS = (
    Launcher("torchrun", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"),
    Launcher(
        "Open MPI", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK",
        "OMPI_COMM_WORLD_LOCAL_SIZE",
    ),
    Launcher(
        "MVAPICH2", "MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_LOCAL_RANK",
        "MV2_COMM_WORLD_LOCAL_SIZE",
    ),
    Launcher("MPICH", "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS", sign="MPI_LOCALRANKID"),
    Launcher(
        SRUN, "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_STEP_TASKS_PER_NODE",
        tasks_of_this_node, sign="SLURM_STEP_NUM_TASKS",
    ),
)  # fmt: skip


def launcher_here() -> Launcher | None:
    """The launcher that started this process; None: it was started by hand."""
    for launcher in LAUNCHERS:
        if launcher.rank in os.environ and (not launcher.sign or launcher.sign in os.environ):
            return launcher
    return None


Ranks = tuple[int, int, int, int]
"""Rank, number of processes, rank within the node, number on the node."""


def ranks_here() -> Ranks:
    """The ranks of this process; those of a single process when no launcher started it.

    Raises:
        UserError: a launcher's variables are missing, or no numbers, or contradict each other.
    """
    launcher = launcher_here()
    if launcher is None:
        return 0, 1, 0, 1
    names = (launcher.rank, launcher.count, launcher.local_rank, launcher.local_count)
    try:
        *numbers, local_count = (os.environ[name] for name in names)
        rank, count, local_rank = (int(number) for number in numbers)
        local = launcher.read_local_count(local_count, os.environ)
    except (KeyError, ValueError) as error:
        raise UserError(
            f"{', '.join(names)}: {launcher.name} sets all of them to whole numbers, and here they are not; "
            "start with torchrun or srun, or unset them"
        ) from error
    if not (0 <= rank < count and 0 <= local_rank < local <= count):
        raise UserError(
            f"{', '.join(names)}: {rank}, {count}, {local_rank}, {local} contradict each other; start with torchrun or "
            "srun"
        )
    return rank, count, local_rank, local


def rank_here() -> int:
    """This process's rank; 0 when the environment says nonsense."""
    try:
        return ranks_here()[0]
    except UserError:
        return 0


def job_here() -> str | None:
    """What SLURM's commands call the job that this process is part of, or its task of an array; None: no job."""
    job = os.environ.get("SLURM_JOB_ID")
    # One task of an array has the array's own number, by which the commands mean all its tasks. The others' numbers are
    # their own: those stand, as a job that such a task has submitted inherits the array's variables.
    if job is not None and job == os.environ.get("SLURM_ARRAY_JOB_ID"):
        return f"{job}_{os.environ.get('SLURM_ARRAY_TASK_ID')}"
    return job


def host_here() -> str:
    """What people call this machine: SLURM's name for it, else its own."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()
