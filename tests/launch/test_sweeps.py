"""Sweeps without SLURM: each task of the array for itself, and each run of it resumed by its folder."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

from simclr_dist.distributed.launchers import job_here
from simclr_dist.errors import UserError
from simclr_dist.launch.slurm import scheduler
from simclr_dist.launch.slurm.sweeps import runs_of
from simclr_dist.run.lock_owner import Owner
from tests.support.commands import TAKES, batch_script

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
    slurm(scontrol=_TASKS % ("RUNNING", "2026-01-01T00:00:00", "COMPLETED"))
    job = job_here()
    assert not scheduler.should_requeue(job, signal.SIGTERM)  # preempted is the other one
    assert scheduler.has_ended(job)
    assert scheduler.first_node_is_lost(job)
    assert scheduler.requeue_if_possible(job) == ""
    assert (folder / "asked").read_text().splitlines()[-1] == "requeue 29_1"


@pytest.mark.parametrize(("state", "asked"), [("RUNNING", ["requeue 29_1"]), ("PENDING", [])])
def test_the_batch_script_of_an_array_requeues_its_own_task_and_only_while_that_runs(
    slurm, folder, capsys, state, asked
):
    slurm(srun="exit 75", sleep="", scontrol=_TASKS % ("RUNNING", "None", state))
    text = "\n".join(batch_script(capsys, "--sweep=recipe.seed=0,1"))
    assert subprocess.run(["bash", "-c", text], env={**os.environ, **LAST}, check=False).returncode == 75
    assert (folder / "asked").read_text().splitlines() == ["show job 29_1", *asked]


DEMO = ("digits_demo", "machine.run_dir=sw")


@pytest.mark.parametrize("before", ["temperature=0.1_seed=0", "temperature=0.1,seed=0", "name=a:b"])
def test_a_run_of_a_sweep_is_resumed_whatever_its_folder_is_called(slurm, folder, run, before):
    slurm(**TAKES)
    sweep = ("--sweep=recipe.method.temperature=0.1,0.5", "--sweep=recipe.seed=0,1")
    assert run("submit", *DEMO, *sweep)[0] == 0
    runs = {path.name for path in (folder / "sw").iterdir()} - {"jobs"}
    assert runs == {f"temperature={temperature}_seed={seed}" for temperature in ("0.1", "0.5") for seed in "01"}
    (folder / "sw" / "temperature=0.1_seed=0").rename(folder / "sw" / before)  # as earlier versions named them
    status, _, err = run("resume", f"sw/{before}")
    assert status == 0, err
    start = (folder / "sw" / before / "jobs" / "002" / "start").read_text()
    assert f"{folder}/sw/jobs/001/code" in start  # that, and not the run's folder, is on PYTHONPATH


@pytest.mark.parametrize("moved", ["sw/seed=0", "sw"])
def test_a_run_of_a_sweep_is_resumed_and_read_where_it_or_all_of_the_sweep_was_moved(slurm, folder, run, moved):
    slurm(**TAKES)
    assert run("submit", *DEMO, "--sweep=recipe.seed=0,1")[0] == 0
    assert run("submit", "digits_demo", "machine.run_dir=other", "--sweep=recipe.seed=5,6")[0] == 0
    (folder / "sw" / "jobs" / "001" / "29_0_0_log.out").write_text("a line\n")
    (folder / moved).rename(folder / "other" / "moved")  # beside another sweep's config and code
    now = folder / "other" / "moved" / ("seed=0" if moved == "sw" else "")
    assert run("logs", now)[:2] == (0, "a line\n")
    assert run("resume", now)[0] == 0
    config = (now / "jobs" / "002" / "config.yaml").read_text()
    assert "seed: 0\n" in config
    assert f"run_dir: {now}\n" in config
    start = (now / "jobs" / "002" / "start").read_text()
    assert f"{folder}/{'other/moved' if moved == 'sw' else 'sw'}/jobs/001/code" in start


def test_a_folder_with_a_comma_is_taken_and_a_containers_list_of_mounts_names_what_it_cannot_take(folder, run):
    words = ("submit", "my.yaml", "machine.run_dir=/runs/a,b", "--dry-run")
    assert run(*words)[0] == 0
    assert "pyxis takes a colon or a comma" in run(*words, "--container=x")[2]


def test_a_resumed_run_of_a_sweep_sees_the_sweeps_code_in_its_container(slurm, folder, run):
    slurm(**TAKES)
    assert run("submit", *DEMO, "--sweep=recipe.seed=0,1")[0] == 0
    (folder / "elsewhere").mkdir()
    os.chdir(folder / "elsewhere")
    out = run("resume", "../sw/seed=0", "--container=x.sif", "--dry-run")[1]
    assert f"--bind {folder}/sw/jobs/001/code " in out


def test_a_swept_value_with_a_slash_or_colon_makes_a_folder_that_a_list_can_name():
    _, found = runs_of("my.yaml", [], ["recipe.data.path=/a/b,c:d"])
    assert [Path(config.machine.run_dir).name for config in found] == ["path=_a_b", "path=c_d"]


def test_what_a_recipe_cannot_be_without_may_come_from_the_sweep(folder):
    (folder / "no_path.yaml").write_text("recipe: {data: {source: folder}}\n")
    base, found = runs_of("no_path.yaml", [], ["recipe.data.path=a,b"])
    assert (base, [config.recipe.data.path for config in found]) == (
        folder / "runs/no_path",
        [f"{folder}/a", f"{folder}/b"],
    )


@pytest.mark.parametrize("sweep", ["machine.run_dir=a,b", "recipe.seed=0,1"])
def test_runs_of_a_sweep_have_one_folder_over_them(folder, sweep):
    (folder / "by_seed.yaml").write_text("machine: {run_dir: 'runs/${recipe.seed}'}\n")
    with pytest.raises(UserError, match=r"--sweep: machine\.run_dir is the one folder over all runs, and is .* and "):
        runs_of("by_seed.yaml", ["recipe.data.source=digits"], [sweep])
