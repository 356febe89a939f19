"""The command as users start it: its own processes, torchrun, signals, a process that dies."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from simclr_dist.metrics import read_metrics
from tests.harness import TINY, final_state, losses

# Each launch costs seconds of imports, so every test here proves a path of its own and no more.
SIMCLR_DIST = [sys.executable, "-m", "simclr_dist"]


@pytest.fixture
def recipe(tmp_path: Path) -> list[str]:
    (tmp_path / "tiny.yaml").write_text("recipe: {}\n")
    return ["pretrain", str(tmp_path / "tiny.yaml"), *TINY, f"machine.run_dir={tmp_path / 'run'}"]


def start(command: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def wait_for_step(run: Path, step: int, process: subprocess.Popen[str]) -> None:
    while len(read_metrics(run / "metrics.jsonl")) < step:
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)


def workers_of(run: Path) -> list[int]:
    """Process ids of all processes that were started for this run."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if str(run).encode() in command and int(entry.name) != os.getpid():
                found.append(int(entry.name))
    return found


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_finishes_the_step_saves_and_says_how_to_go_on(tmp_path, recipe, number):
    process = start([*SIMCLR_DIST, *recipe, "--processes", "2", "recipe.epochs=100"])
    wait_for_step(tmp_path / "run", 3, process)
    process.send_signal(number)
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 128 + signal.SIGTERM, errors  # the launcher passes SIGTERM on
    assert "start the same command again to go on" in output
    assert "Traceback" not in errors
    assert final_state(tmp_path / "run")["step"] == len(losses(tmp_path / "run")) >= 3


def test_torchrun_starts_it_and_a_process_that_is_killed_ends_the_others(tmp_path, recipe):
    torchrun = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        "-m",
        "simclr_dist",
    ]
    process = start([*torchrun, *recipe, "machine.stop_after_steps=2"])
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert "stopped after step 2 of 88" in output
    process = start([*SIMCLR_DIST, *recipe, "--processes", "2", "recipe.epochs=2"])
    wait_for_step(tmp_path / "run", 6, process)
    victim = next(
        pid
        for pid in workers_of(tmp_path / "run")
        if b"RANK=1" in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    )
    os.kill(victim, signal.SIGKILL)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 128 + signal.SIGKILL
    assert "process 1 was killed by SIGKILL" in errors
    assert not workers_of(tmp_path / "run")


def test_processes_end_when_their_launcher_is_killed(tmp_path, recipe):
    process = start([*SIMCLR_DIST, *recipe, "--processes", "2", "recipe.epochs=1000"])
    wait_for_step(tmp_path / "run", 1, process)
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 120
    while workers_of(tmp_path / "run") and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not workers_of(tmp_path / "run")
    assert final_state(tmp_path / "run")["step"] >= 1


def test_a_user_error_inside_the_processes_is_one_line_and_status_2(tmp_path, recipe):
    (tmp_path / "run").write_text("a file where the folder should be")
    process = start([*SIMCLR_DIST, *recipe, "--processes", "2"])
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 2
    assert len(errors.splitlines()) == 1
    assert errors.startswith("simclr-dist: machine.run_dir:")
