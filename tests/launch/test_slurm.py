"""Runs on a real SLURM cluster of two nodes, on this machine: disturbed, cancelled, refused, watched."""

import io
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout, suppress
from functools import cache
from itertools import count
from pathlib import Path

import pytest

from simclr_dist.cli.main import main
from simclr_dist.launch.slurm import scheduler
from simclr_dist.launch.slurm.job import LIVING
from simclr_dist.run.metrics_log import read_metrics
from tests.support.commands import complaint
from tests.support.processes import TINY, Running, assert_bit_equal, final_state, losses, pretrain_here, tiny_config
from tests.support.slurm_cluster import NODES, Cluster, missing
from tests.support.waiting import wait_until

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing() or "there")

STEPS = 88
SAVE_EVERY = 10
# float64: so small a network makes of a rounding error of one step a thousand times as much in so many steps. Half the
# width: a CPU's convolutions in float64 are slow.
RECIPE = (
    *TINY,
    "recipe.epochs=2",
    "recipe.encoder.width=0.125",
    "recipe.batch_norm_group_images=16",
    f"machine.save_every_steps={SAVE_EVERY}",
    "machine.precision=float64",
)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    # Ended from outside, as by script/test, pytest still stops the daemons.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    started = Cluster(tmp_path_factory.mktemp("slurm"))
    try:
        yield started
    finally:
        started.stop()
        signal.signal(signal.SIGTERM, before)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Path]]:
    """The run folder of the same recipe in two processes without SLURM; they run while the first job waits."""
    folder = tmp_path_factory.mktemp("undisturbed")
    running = Running(2, pretrain_here, tiny_config(folder, *RECIPE))

    @cache
    def ended() -> Path:
        running.results()
        return folder / "run"

    yield ended
    running.kill()


@pytest.fixture
def user(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator["User"]:
    (tmp_path / "tiny.yaml").write_text("recipe: {}\n")
    # What the working directory holds is not what a job runs.
    (tmp_path / "simclr_dist").mkdir()
    (tmp_path / "simclr_dist" / "__init__.py").write_text("raise ImportError('not this one')\n")
    yield User(cluster, tmp_path, monkeypatch)
    cluster.clear()  # a test that failed leaves the next ones nothing


class User:
    """Somebody on the login node, in a folder with a tiny recipe."""

    def __init__(self, cluster: Cluster, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.cluster, self.folder, self.run = cluster, folder, folder / "run"
        monkeypatch.chdir(folder)
        for name in ("SLURM_CONF", "PATH"):
            monkeypatch.setenv(name, cluster.environment[name])
        monkeypatch.setenv("XDG_CONFIG_HOME", str(folder))
        monkeypatch.setenv("OMP_NUM_THREADS", "1")

    def type(self, *words: str, status: int = 0) -> str:
        """What ``simclr-dist WORDS`` answers: its output, or when it must fail the one line that says why."""
        output, errors = io.StringIO(), io.StringIO()
        with pytest.raises(SystemExit) as left, redirect_stdout(output), redirect_stderr(errors):
            main(words)
        assert left.value.code == status, output.getvalue() + errors.getvalue()
        return complaint(errors.getvalue()) if status else output.getvalue()

    def submit(self, *words: str, status: int = 0, nodes: int = 2) -> str:
        """The number of the job, or the complaint."""
        recipe = [*RECIPE, f"machine.run_dir={self.run}"]
        answer = self.type("submit", "tiny.yaml", *recipe, f"--nodes={nodes}", "--time=10", *words, status=status)
        return answer if status else answer.split()[1].rstrip(":,")

    def step(self) -> int:
        lines = read_metrics(self.run / "metrics.jsonl")
        return int(lines[-1]["step"]) if lines else 0

    def wait_for_step(self, step: int, job: str) -> None:
        looks = count()

        def reached() -> bool:
            assert next(looks) % 20 or self.cluster.state_of(job) in LIVING, self.log()
            return self.step() >= step

        wait_until(reached, 240, self.log, every=0.05)

    def wait_for_state(self, job: str, state: str) -> None:
        wait_until(lambda: self.cluster.state_of(job) == state, 240, lambda: self.cluster.state_of(job) + self.log())

    def wait_for_restart(self, job: str, restarts: int) -> None:
        shown = f"Restarts={restarts} "
        wait_until(lambda: shown in self.cluster.run("scontrol", "-o", "show", "job", job), 240, self.log)

    def log(self) -> str:
        return "".join(path.read_text() for path in self.folder.rglob("*_log.out"))


def tasks_on(node: str, command: str = "") -> list[int]:
    """Process ids of all that SLURM started on a node, with that in their command lines."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                environment = (entry / "environ").read_bytes().split(b"\0")
                its_command = (entry / "cmdline").read_bytes()
                if f"SLURMD_NODENAME={node}".encode() in environment and command.encode() in its_command:
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def processes_on(node: str) -> list[int]:
    """Those of them that pretrain, and not the scripts that start them."""
    return tasks_on(node, "-m\0simclr_dist\0pretrain")


def parent_of(process: int) -> int:
    with suppress(OSError):
        return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
    return 0


def command_of(process: int) -> bytes:
    with suppress(OSError):
        return Path(f"/proc/{process}/cmdline").read_bytes()
    return b""


def lose(cluster: Cluster, node: str) -> None:
    """A node and all that runs there."""
    cluster.kill_node(node)
    lost = tasks_on(node)
    assert lost
    lost += {parent for each in lost if (parent := parent_of(each)) and command_of(parent).startswith(b"slurmstepd")}
    for process in lost:  # as a lost node's: they neither answer nor end
        os.kill(process, signal.SIGSTOP)
    cluster.run("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=lost")  # as after SlurmdTimeout

    def depth(process: int) -> int:
        return 1 + depth(parent_of(process)) if process in lost else 0

    # Children first: as its parent ends, the kernel wakes a stopped srun (SIGHUP, SIGCONT), which ends all tasks.
    for process in sorted(lost, key=depth, reverse=True):
        os.kill(process, signal.SIGKILL)


def test_a_notice_preemption_and_a_lost_node_leave_no_trace_in_the_run(user, cluster, undisturbed):
    job = user.submit("--partition=low")
    user.wait_for_step(6, job)
    # In mid-epoch: saved at once, so no step is repeated; the job requeues itself.
    cluster.run("scancel", "--signal=USR2", job)
    user.wait_for_restart(job, 1)
    noticed = user.step()
    user.wait_for_step(noticed + 6, job)
    assert f"stopped by SIGUSR2 after step {noticed} of {STEPS}" in user.log()
    assert f"step {noticed} of {STEPS}, 2 processes" in user.log()
    cluster.run("sbatch", "--partition=main", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap=true")
    user.wait_for_restart(job, 2)
    user.wait_for_step(user.step() + 6, job)
    lose(cluster, "n2")
    cluster.start_node("n2")
    user.wait_for_restart(job, 3)
    user.wait_for_state(job, "COMPLETED")
    assert losses(user.run) == losses(undisturbed())  # each step once, in order
    assert len(losses(user.run)) == STEPS
    assert_bit_equal(final_state(user.run), final_state(undisturbed()))
    assert "Traceback" not in user.log()
    repeated = [int(count) for count in re.findall(r"the (\d+) steps after the newest checkpoint", user.log())]
    assert len(repeated) <= 2
    assert all(count <= SAVE_EVERY for count in repeated)


def test_a_run_started_on_two_nodes_and_cancelled_goes_on_on_one_along_the_same_trajectory(user, cluster, undisturbed):
    job = user.submit()
    wait_until(lambda: all(processes_on(node) for node in NODES), 240, user.log)
    cluster.run("scancel", "--signal=USR2", job)  # the processes do not listen yet: it waits for them
    user.wait_for_restart(job, 1)
    user.wait_for_step(SAVE_EVERY + 2, job)
    assert "is at it already" in user.submit(status=2)
    told = user.type("status", job)
    assert "RUNNING on n[1-2]" in told
    assert "started again 1 times" in told
    assert f"of {STEPS}" in told
    assert f"job {job} ended" in user.type("cancel", str(user.run))
    assert "CANCELLED" in user.type("status", str(user.run))
    assert final_state(user.run)["step"] < STEPS
    kept = user.run / "jobs" / "001" / "code" / "simclr_dist" / "training" / "trainer.py"
    kept.write_text(kept.read_text().replace('"step %d of %d,', '"the code of the submission: step %d of %d,'))
    answer = user.type("resume", str(user.run), "--nodes=1", "machine.save_every_steps=100")
    second = answer.split()[1].rstrip(":")
    user.wait_for_state(second, "COMPLETED")
    assert losses(user.run) == pytest.approx(losses(undisturbed()), rel=1e-6)
    assert f"step {STEPS} of {STEPS}" in user.type("logs", str(user.run))
    told = user.type("status", str(user.run))
    assert "COMPLETED" in told
    assert f"{STEPS} of {STEPS}" in told
    assert "no job of it waits or runs" in user.type("cancel", str(user.run))
    assert "the code of the submission" in user.type("logs", second)


def test_where_the_others_go_on_a_job_finishes_without_its_first_node_and_its_batch_script(user, cluster, undisturbed):
    job = user.submit("machine.on_lost_process=go_on", "machine.device=cpu")
    user.wait_for_step(5, job)
    lose(cluster, "n1")
    wait_until(lambda: cluster.state_of(job) not in LIVING, 240, user.log)
    cluster.start_node("n1")
    assert f"finished: {STEPS} steps" in user.log()
    assert "is ended by its last process: its first node was lost" in user.log()
    assert "Traceback" not in user.log()
    assert losses(user.run) == pytest.approx(losses(undisturbed()), rel=1e-6)
    counts = [line["processes"] for line in read_metrics(user.run / "metrics.jsonl")]
    assert sorted(set(counts)) == [1, 2]
    cluster.wait_idle()


def test_a_sweep_is_an_array_with_a_run_folder_each_and_a_table(user, cluster):
    job = user.submit(
        "recipe.epochs=1", "recipe.global_batch_images=96", "--sweep=recipe.method.temperature=0.2,0.5", nodes=1
    )
    runs = [user.run / f"temperature={value}" for value in ("0.2", "0.5")]
    for task in range(2):
        user.wait_for_state(f"{job}_{task}", "COMPLETED")
    table = user.type("status", str(user.run)).splitlines()
    assert len(table) == 3
    assert all("COMPLETED" in line and "14 of 14" in line for line in table[1:])
    assert len({tuple(losses(run)) for run in runs}) == 2
    assert "14 of 14" in user.type("logs", str(runs[1]))
    assert "temperature=0.5" in user.type("status", f"{job}_1")


# What a process asks that has saved after a notice.
ASKS = """
from simclr_dist.distributed.launchers import job_here
from simclr_dist.launch.slurm import scheduler
assert not scheduler.has_ended(job_here())
assert scheduler.requeue_if_possible(job_here()) == ""
"""


def test_a_task_of_a_sweep_goes_back_into_the_queue_alone_though_its_number_is_the_arrays(user, cluster):
    words = (*RECIPE, "--sweep=recipe.seed=0,1", f"machine.run_dir={user.folder}", "--time=10", "--dry-run")
    step = f"""if [ "$SLURM_JOB_ID" != "$SLURM_ARRAY_JOB_ID" ]; then until [ -f again ]; do sleep 0.1; done
    elif [ "$SLURM_RESTART_COUNT" = 1 ]; then touch again
    else {sys.executable} -P -c '{ASKS}' && (exit 75); fi"""
    script = re.sub(r"(?m)^srun .*\n.*$", step, user.type("submit", "tiny.yaml", *words))
    (user.folder / "jobs" / "NNN").mkdir(parents=True)
    (user.folder / "batch.sh").write_text(script)
    job = cluster.run("sbatch", "--parsable", "batch.sh").strip()
    for task in range(2):
        user.wait_for_state(f"{job}_{task}", "COMPLETED")
    shown = cluster.run("scontrol", "-o", "show", "job", job)
    assert sorted(re.findall(r" ArrayTaskId=(\d).* Restarts=(\d+)", shown)) == [("0", "0"), ("1", "1")]


def test_a_job_that_waits_is_found_though_sbatchs_answer_was_lost_says_why_and_can_be_cancelled(
    user, cluster, monkeypatch
):
    call = scheduler.call

    def whose_answer_is_lost(*command):
        answer = call(*command)
        if command[0] == "sbatch":
            raise scheduler.ControllerAwayError("Socket timed out on send/recv operation")
        return answer

    monkeypatch.setattr(scheduler, "call", whose_answer_is_lost)
    job = user.submit("--sbatch=hold")
    assert "PENDING" in user.type("status", job)
    assert "scontrol release" in user.type("status", job)
    assert "has printed nothing yet" in user.type("logs", job, status=2)
    assert f"job {job} ended" in user.type("cancel", job)
    assert cluster.state_of(job) == "CANCELLED"


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--partition=nope"], "Partitions here: main: 2 nodes"),
        (["--nodes=16"], "SLURM would refuse this job"),
        (["--sbatch=no-such-option=1"], "unrecognized option"),
        (["--profile=nope"], "--profile: 'nope'"),
        (["--nodes=5"], "cannot be shared equally by 5 processes"),
        (["recipe.data.source=folder", "recipe.data.path=nowhere"], "nowhere"),
        (["--gpu-memory=1MB"], "a GPU has 1MB"),
        (["--sweep=recipe.method.temperature"], "--sweep"),
    ],
)
def test_what_slurm_or_the_recipe_refuses_is_one_line_and_leaves_nothing_behind(user, words, complaint):
    assert complaint in user.submit(*words, status=2)
    assert not list(user.run.rglob("jobs/*/*"))
    assert not user.cluster.run("squeue", "-h")


def test_without_slurm_submit_says_what_to_do(user, monkeypatch):
    monkeypatch.setenv("PATH", str(user.folder))
    assert "sbatch: not installed on this machine" in user.submit(status=2)
    assert not list(user.run.rglob("jobs/*/*"))


@pytest.mark.parametrize(
    ("number", "options", "complaint"),
    [
        (signal.SIGSTOP, ["machine.collective_timeout_seconds=4"], "process 1 on n2 has not answered for 4 s"),
        (signal.SIGKILL, [], "process 1 on n2 has ended"),
    ],
)
def test_a_process_that_hangs_or_dies_ends_the_job_in_the_stated_time_and_status_tells_why(
    user, cluster, number, options, complaint
):
    job = user.submit(*options)
    user.wait_for_step(5, job)
    for process in processes_on("n2"):
        os.kill(process, number)
    user.wait_for_state(job, "FAILED")
    told = user.type("status", job)
    assert complaint in told
    assert re.search(r"in step \d+, its last collective '", told)
    cluster.wait_idle()


def test_a_disk_that_stays_full_ends_the_job_with_a_line_and_the_checkpoints_before_are_intact(user, cluster):
    user.run.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(user.run)], check=False)
    if mounted.returncode:
        pytest.skip("no file system can be mounted here")
    try:
        job = user.submit("machine.keep_checkpoints=100", "recipe.encoder.width=0.25")  # three checkpoints fill it
        user.wait_for_state(job, "FAILED")
        told = user.type("status", job)
        assert "3 saves to" in told
        assert "No space left on device" in told
        assert "Traceback" not in user.log()
        assert final_state(user.run)["step"] >= SAVE_EVERY
        cluster.wait_idle()
    finally:
        subprocess.run(["umount", str(user.run)], check=True)


def test_the_scripts_of_the_documentation_start_and_go_on_with_a_run(user, cluster, monkeypatch):
    shutil.rmtree(user.folder / "simclr_dist")  # torchrun takes it
    guide = (Path(__file__).parents[2] / "docs" / "cluster.md").read_text()
    scripts = [block.partition("```")[0] for block in guide.split("```sh\n") if block.startswith("#!/bin/bash")]
    assert ["torchrun" in script for script in scripts] == [False, True]
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{cluster.environment['PATH']}")
    for number, script in enumerate(scripts):
        stop = f"machine.stop_after_steps={3 * number + 3}"
        (user.folder / "job.sh").write_text(
            script.replace("my.yaml", " ".join(["tiny.yaml", *TINY, f"machine.run_dir={user.run}", stop]))
        )
        small = ("--nodes=2", "--ntasks-per-node=1", "--gpus-per-node=1", "--cpus-per-task=2", "--output=1_log.out")
        job = subprocess.run(
            ["sbatch", "--parsable", *small, "job.sh"], capture_output=True, text=True, check=True
        ).stdout.strip()
        user.wait_for_state(job, "COMPLETED")
        assert f"step {3 * number} of 88, 2 processes" in user.log()
    assert len(losses(user.run)) == 6


# As the cluster's cores are pretended, so is that srun binds each task to twelve of them.
BOUND = """
import os, sys
first = 12 * int(os.environ["SLURM_LOCALID"])
os.sched_getaffinity = lambda _: set(range(first, first + 12))
from simclr_dist.cli.main import main
main(["doctor", "--device=cpu", "--dir", sys.argv[1]])
"""


def test_two_tasks_that_srun_has_bound_to_their_own_cores_of_a_node_keep_all_of_them(user):
    shutil.rmtree(user.folder / "simclr_dist")
    started = ["srun", "--nodes=1", "--ntasks=2", "--cpus-per-task=2", sys.executable, "-c", BOUND, str(user.folder)]
    found = subprocess.run(started, capture_output=True, text=True, check=True, timeout=120).stdout
    assert "2 on " in found, found
    assert re.search(r"ok +loader workers +12 a process\n", found), found
