"""Which process this is, from what each launcher says in the environment."""

import pytest

from simclr_dist.distributed.launchers import LAUNCHERS, ranks_here, tasks_of_this_node
from simclr_dist.errors import UserError

OPEN_MPI = {
    "OMPI_COMM_WORLD_RANK": "5",
    "OMPI_COMM_WORLD_SIZE": "8",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "4",
}
SRUN = {
    "SLURM_PROCID": "5",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_TASKS_PER_NODE": "4(x2)",
    "SLURM_NODEID": "1",
}
TORCHRUN = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
HYDRA = {"PMI_RANK": "2", "PMI_SIZE": "3", "MPI_LOCALRANKID": "0", "MPI_LOCALNRANKS": "1"}


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch):
    for launcher in LAUNCHERS:
        for name in (launcher.rank, launcher.count, launcher.local_rank, launcher.local_count):
            monkeypatch.delenv(name, raising=False)


def ranks(monkeypatch, **environment):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return ranks_here()


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, (0, 1, 0, 1)),
        (TORCHRUN, (3, 4, 1, 2)),
        (SRUN, (5, 8, 1, 4)),
        (OPEN_MPI, (5, 8, 1, 4)),
        (HYDRA, (2, 3, 0, 1)),
        # A batch script where nothing was started: the job's variables are there, the step's are not.
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_LOCALID": "0"}, (0, 1, 0, 1)),
        # mpirun and torchrun below srun: srun's variables are those of their helpers.
        ({**SRUN, "SLURM_PROCID": "0", **OPEN_MPI}, (5, 8, 1, 4)),
        ({**SRUN, **TORCHRUN}, (3, 4, 1, 2)),
        # srun with pmi2 sets a rank for MPI too.
        ({**SRUN, "PMI_RANK": "5", "PMI_SIZE": "8"}, (5, 8, 1, 4)),
    ],
)
def test_the_innermost_launcher_says_which_process_this_is(monkeypatch, environment, expected):
    assert ranks(monkeypatch, **environment) == expected


@pytest.mark.parametrize(
    "environment",
    [
        {"RANK": "1"},
        {**TORCHRUN, "RANK": "x"},
        {**TORCHRUN, "RANK": "4"},
        {**TORCHRUN, "LOCAL_WORLD_SIZE": "5"},
        {**SRUN, "SLURM_STEP_TASKS_PER_NODE": "8"},
        {**SRUN, "SLURM_STEP_TASKS_PER_NODE": "4(x"},
    ],
)
def test_variables_that_are_missing_or_contradict_each_other_are_refused(monkeypatch, environment):
    with pytest.raises(UserError, match=r"torchrun|srun"):
        ranks(monkeypatch, **environment)


@pytest.mark.parametrize(("node", "expected"), [(0, 4), (2, 4), (3, 2), (4, 1)])
def test_tasks_of_a_node_are_read_from_slurms_list(node, expected):
    assert tasks_of_this_node("4(x3),2,1", {"SLURM_NODEID": str(node)}) == expected
