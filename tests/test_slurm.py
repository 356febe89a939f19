"""Runs on a real SLURM cluster of two nodes, on this machine: disturbed, cancelled, refused, watched."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from simclr_dist.launch import records
from simclr_dist.metrics import read_metrics
from tests.harness import TINY, Running, assert_bit_equal, final_state, losses, pretrain_here, tiny_config
from tests.slurm_cluster import Cluster, missing, wait_until

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing() or "there")

EPOCHS = 5  # 44 steps each
STEPS = 220
SAVE_EVERY = 20


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    started = Cluster(tmp_path_factory.mktemp("slurm"))
    try:
        yield started
    finally:
        started.stop()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of the same recipe in two processes without SLURM."""
    folder = tmp_path_factory.mktemp("undisturbed")
    config = tiny_config(folder, f"recipe.epochs={EPOCHS}", f"machine.save_every_steps={SAVE_EVERY}")
    Running(2, pretrain_here, config).results()
    return folder / "run"


@pytest.fixture
def user(cluster: Cluster, tmp_path: Path) -> "User":
    (tmp_path / "tiny.yaml").write_text("recipe: {}\n")
    return User(cluster, tmp_path)


class User:
    """Somebody on the login node, in a folder with a tiny recipe."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.cluster, self.folder, self.run = cluster, folder, folder / "run"

    def type(self, *words: str, status: int = 0, **environment: str) -> str:
        """What ``simclr-dist WORDS`` answers: its output, or when it must fail the one line that says why."""
        done = subprocess.run(
            [sys.executable, "-m", "simclr_dist", *words], cwd=self.folder, capture_output=True, text=True, timeout=120,
            env={**self.cluster.environment, "OMP_NUM_THREADS": "1", "XDG_CONFIG_HOME": str(self.folder), **environment},
        )  # fmt: skip
        assert done.returncode == status, done.stdout + done.stderr
        if status:
            assert len(done.stderr.splitlines()) == 1, done.stderr
        return done.stderr if status else done.stdout

    def submit(self, *words: str, status: int = 0, nodes: int = 2) -> str:
        """The number of the job, or the complaint."""
        recipe = [
            *TINY, f"recipe.epochs={EPOCHS}", f"machine.save_every_steps={SAVE_EVERY}", f"machine.run_dir={self.run}",
        ]  # fmt: skip
        answer = self.type("submit", "tiny.yaml", *recipe, f"--nodes={nodes}", "--time=10", *words, status=status)
        return answer if status else answer.split()[1].rstrip(":,")

    def step(self) -> int:
        lines = read_metrics(self.run / "metrics.jsonl")
        return int(lines[-1]["step"]) if lines else 0

    def wait_for_step(self, step: int, job: str) -> None:
        def reached() -> bool:
            assert self.cluster.state_of(job) not in ("FAILED", "COMPLETED", "CANCELLED"), self.log()
            return self.step() >= step

        wait_until(reached, 120, self.log)

    def wait_for_state(self, job: str, state: str) -> None:
        wait_until(lambda: self.cluster.state_of(job) == state, 120, lambda: self.cluster.state_of(job) + self.log())

    def wait_for_restart(self, job: str, restarts: int) -> None:
        shown = f"Restarts={restarts} "
        wait_until(lambda: shown in self.cluster.run("scontrol", "-o", "show", "job", job), 120, self.log)

    def log(self) -> str:
        return "".join(path.read_text() for path in self.folder.rglob("*_log.out"))


def tasks_on(node: str) -> list[int]:
    """Process ids of all that SLURM started on a node."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if f"SLURMD_NODENAME={node}".encode() in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def test_notices_requeues_preemption_and_a_lost_node_leave_no_trace_in_the_run(user, cluster, undisturbed):
    job = user.submit("--partition=low")
    user.wait_for_step(30, job)
    cluster.run("scancel", "--signal=USR2", job)  # in mid-epoch: saved at once, so no step is repeated
    user.wait_for_restart(job, 1)
    noticed = user.step()
    assert noticed % SAVE_EVERY
    user.wait_for_step(noticed + 30, job)
    cluster.run("scontrol", "requeue", job)
    user.wait_for_restart(job, 2)
    user.wait_for_step(user.step() + 30, job)
    cluster.run("sbatch", "--partition=main", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap=sleep 1")
    user.wait_for_restart(job, 3)
    user.wait_for_step(user.step() + 30, job)
    cluster.kill_node("n2")
    lost = tasks_on("n2")
    assert lost
    for process in lost:  # as a lost node's: they neither answer nor end
        os.kill(process, signal.SIGSTOP)
    wait_until(lambda: "down" in cluster.run("sinfo", "-h", "-n", "n2", "-o", "%T"), 60, "n2 is not missed")
    for process in lost:
        os.kill(process, signal.SIGKILL)
    cluster.start_node("n2")
    user.wait_for_restart(job, 4)
    user.wait_for_state(job, "COMPLETED")
    assert losses(user.run) == losses(undisturbed)  # each step once, in order
    assert len(losses(user.run)) == STEPS
    assert_bit_equal(final_state(user.run), final_state(undisturbed))
    assert "Traceback" not in user.log()
