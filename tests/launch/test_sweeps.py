"""Sweeps without SLURM: each task of the array for itself, and each run of it resumed by its folder."""

import os
import signal
import subprocess

import pytest

from simclr_dist.distributed.launchers import job_here
from simclr_dist.launch.slurm import scheduler
from simclr_dist.run.lock_owner import Owner
from tests.support.commands import batch_script

pytestmark = pytest.mark.usefixtures("folder")

# Of tasks 0 and 1: as SLURM has it, the last one has the array's own number, which names both.
_TASKS = """
first="JobId=30 ArrayJobId=29 ArrayTaskId=0 JobState=%s PreemptTime=%s BatchHost=n1 NodeList=n1"
last="JobId=29 ArrayJobId=29 ArrayTaskId=1 JobState=%s PreemptTime=None BatchHost=n2 NodeList=n3"
[[ $1 = --oneliner ]] && shift
echo "$*" >> asked
case "$*" in
    "show job 29") echo "$first"; echo "$last";; "show job 30"|"show job 29_0") echo "$first";;
    "show job 29_1") echo "$last";; "show hostnames n3") echo n3;;
esac
"""
LAST = {"SLURM_JOB_ID": "29", "SLURM_ARRAY_JOB_ID": "29", "SLURM_ARRAY_TASK_ID": "1"}


@pytest.fixture
def last_task(monkeypatch):
    """This process is of the task that has the array's number."""
    for name, value in LAST.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("job", "array", "name"),
    [("29", None, "29"), ("29", "29", "29_1"), ("30", "29", "30")],  # the third: a task, or a job that one submitted
)
def test_a_job_has_a_name_by_which_slurm_means_nothing_else(monkeypatch, job, array, name):
    monkeypatch.delenv("SLURM_ARRAY_JOB_ID", raising=False)
    for key, value in {**LAST, "SLURM_JOB_ID": job, "SLURM_ARRAY_JOB_ID": array}.items():
        if value:
            monkeypatch.setenv(key, value)
    assert (job_here(), Owner.here().job) == (name, name)


def test_the_last_task_of_an_array_asks_about_itself_and_not_about_its_siblings(slurm, folder, last_task):
    slurm(scontrol=_TASKS % ("RUNNING", "2026-01-01T00:00:00", "COMPLETED"), scancel='echo "cancel $*" >> asked')
    job = job_here()
    assert not scheduler.should_requeue(job, signal.SIGTERM)  # preempted is the other one
    assert scheduler.has_ended(job)
    assert scheduler.end_if_first_node_is_lost(job)
    assert scheduler.requeue_if_possible(job) == ""
    assert (folder / "asked").read_text().splitlines()[-2:] == ["cancel 29_1", "requeue 29_1"]


@pytest.mark.parametrize(("state", "asked"), [("RUNNING", ["requeue 29_1"]), ("PENDING", [])])
def test_the_batch_script_of_an_array_requeues_its_own_task_and_only_while_that_runs(
    slurm, folder, capsys, state, asked
):
    slurm(srun="exit 75", sleep="", scontrol=_TASKS % ("RUNNING", "None", state))
    text = "\n".join(batch_script(capsys, "--sweep=recipe.seed=0,1"))
    assert subprocess.run(["bash", "-c", text], env={**os.environ, **LAST}, check=False).returncode == 75
    assert (folder / "asked").read_text().splitlines() == ["show job 29_1", *asked]
