"""The command as users start it: its own processes, torchrun, signals, a process that dies."""

import contextlib
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from torch.distributed import TCPStore

from simclr_dist.distributed import cores
from simclr_dist.errors import UserError
from simclr_dist.launch import local
from simclr_dist.launch.relaunch import relaunch
from simclr_dist.run.metrics_log import read_metrics
from tests.support.commands import complaint
from tests.support.forked_command import Command
from tests.support.processes import TINY, Running, final_state, losses

# Each process of a launch costs seconds of imports: the launcher's own promises are proven with stand-ins for its
# processes, those of the whole command with processes that are forked. Real ones: torchrun's here, `--processes` in
# tests/methods/test_outside.py.


@pytest.fixture
def recipe(tmp_path: Path) -> list[str]:
    (tmp_path / "tiny.yaml").write_text("recipe: {}\n")
    return ["pretrain", str(tmp_path / "tiny.yaml"), *TINY, f"machine.run_dir={tmp_path / 'run'}"]


def start(command: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def wait_for_step(run: Path, step: int, command: Command) -> None:
    while len(read_metrics(run / "metrics.jsonl")) < step:
        assert command.poll() is None, command.communicate()
        time.sleep(0.05)


def test_a_launcher_that_has_started_the_processes_already_is_named(monkeypatch):
    step = {"PROCID": "0", "STEP_NUM_TASKS": "2", "LOCALID": "0", "STEP_TASKS_PER_NODE": "2"}
    for name, value in step.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    with pytest.raises(UserError, match="--processes: srun has started the processes already; leave it out"):
        relaunch(2, ["pretrain"], "cpu")


def test_far_more_processes_than_cores_are_refused_before_one_is_started(monkeypatch):
    monkeypatch.setattr(cores, "usable_cores", lambda: 2)
    with pytest.raises(UserError, match="--processes 33: more than 16 for each of the 2 cores here; ask for fewer"):
        relaunch(33, ["pretrain"], "cpu", check=lambda: pytest.fail("it went on"))


def running() -> set[int]:
    """Process ids of all that run on this machine."""
    return {int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()}


def children_of(pid: int) -> set[int]:
    return {int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


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


STAND_IN = """#!/bin/sh
trap 'touch {folder}/told_$RANK; exit 143' TERM
trap 'touch {folder}/interrupted_$RANK' INT
trap 'touch {folder}/noticed_$RANK; exit 75' USR2
touch {folder}/ready_$RANK
for _ in $(seq 100); do sleep 0.05; done
touch {folder}/left_alone_$RANK
"""


def launch_stand_ins(folder: Path, *, goes_on: bool = False) -> tuple[int, str]:
    """Status and complaints of the launcher with two shell scripts as its processes, which start at once."""
    script = folder / "stand_in"
    script.write_text(STAND_IN.format(folder=folder))
    script.chmod(0o755)
    sys.executable = str(script)
    local._GRACE_SECONDS = local._SECONDS_TO_START = 0.2
    with contextlib.redirect_stderr(io.StringIO()) as complaints:
        status = local.run_processes(2, ["pretrain"], goes_on=goes_on)
    return status, complaints.getvalue()


@contextlib.contextmanager
def stand_ins(folder: Path, launch: Callable[..., Any] = launch_stand_ins) -> Iterator[Running]:
    """The launcher in a process of its own, once its processes are there."""
    launcher = Running(1, launch, folder)
    try:
        while len(list(folder.glob("ready_*"))) < 2:
            assert launcher.processes[0].is_alive()
            time.sleep(0.01)
        yield launcher
    finally:
        launcher.kill(after=60)
    assert not workers_of(folder)
    assert not list(folder.glob("left_alone_*"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_launcher_passes_a_signal_on_as_sigterm_to_every_process_and_waits(tmp_path, number):
    with stand_ins(tmp_path) as launcher:
        os.kill(launcher.processes[0].pid, number)
        assert launcher.results() == [(128 + signal.SIGTERM, "")]
    assert {path.name for path in tmp_path.glob("*_[01]")} == {"ready_0", "ready_1", "told_0", "told_1"}


def launch_and_signal_itself(folder: Path) -> tuple[int, str]:
    """As :func:`launch_stand_ins`, with a SIGTERM to the launcher while it has started one process of two."""
    start = subprocess.Popen

    def start_and_signal(*arguments: Any, **options: Any) -> Any:
        process = start(*arguments, **options)
        if options["env"]["RANK"] == "0":
            while not (folder / "ready_0").exists():
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGTERM)
        return process

    local.subprocess.Popen = start_and_signal
    return launch_stand_ins(folder)


def test_a_signal_that_comes_while_the_launcher_starts_leaves_no_process_behind(tmp_path):
    launcher = Running(1, launch_and_signal_itself, tmp_path)
    ((status, _),) = launcher.results()
    assert status == 128 + signal.SIGTERM
    assert (tmp_path / "told_0").exists()
    assert not workers_of(tmp_path)
    assert not list(tmp_path.glob("left_alone_*"))


def test_the_launcher_passes_a_schedulers_notice_on_as_it_is(tmp_path):
    with stand_ins(tmp_path) as launcher:
        os.kill(launcher.processes[0].pid, signal.SIGUSR2)
        assert launcher.results() == [(75, "")]
    assert {path.name for path in tmp_path.glob("*_[01]")} == {"ready_0", "ready_1", "noticed_0", "noticed_1"}


def test_a_process_that_is_killed_is_named_and_ends_the_others(tmp_path):
    with stand_ins(tmp_path) as launcher:
        victim = next(pid for pid in workers_of(tmp_path) if b"RANK=1" in environment(pid))
        os.kill(victim, signal.SIGKILL)
        ((status, complaints),) = launcher.results()
    assert status == 128 + signal.SIGKILL
    assert "process 1 was killed by SIGKILL" in complaints


def listening(pid: int) -> set[str]:
    """Addresses, as the kernel writes them, on which a process waits for connections."""
    sockets = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):  # closed meanwhile
            sockets.add(os.readlink(entry).removeprefix("socket:[").removesuffix("]"))
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            _, address, _, state, *rest = line.split()
            if state == "0A" and rest[5] in sockets:
                found.add(address.partition(":")[0])
    return found


def test_where_the_others_go_on_a_killed_process_is_started_again(tmp_path):
    with stand_ins(tmp_path, partial(launch_stand_ins, goes_on=True)) as launcher:
        (tmp_path / "ready_0").unlink()
        os.kill(next(pid for pid in workers_of(tmp_path) if b"RANK=0" in environment(pid)), signal.SIGKILL)
        while not (tmp_path / "ready_0").exists():
            assert launcher.processes[0].is_alive()
            time.sleep(0.01)
        os.kill(launcher.processes[0].pid, signal.SIGTERM)
        status, complaints = launcher.results()[0]
    assert status == 128 + signal.SIGTERM
    assert complaints.splitlines() == [
        "simclr-dist: process 0 was killed by SIGKILL", "simclr-dist: process 0 is started again"
    ]  # fmt: skip


def test_the_store_of_the_launcher_waits_for_connections_from_this_machine_alone(tmp_path):
    with stand_ins(tmp_path) as launcher:
        pid = launcher.processes[0].pid
        assert listening(pid) == {"0100007F"}
        port = next(value for value in environment(workers_of(tmp_path)[0]) if value.startswith(b"MASTER_PORT="))
        client = TCPStore("127.0.0.1", int(port.partition(b"=")[2]), is_master=False)
        client.set("a", "b")
        assert client.get("a") == b"b"
        os.kill(pid, signal.SIGTERM)
        launcher.results()


def environment(pid: int) -> list[bytes]:
    return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")


def test_a_signal_finishes_the_step_saves_and_says_how_to_go_on(tmp_path, recipe):
    command = Command(tmp_path, [*recipe, "--processes", "2", "recipe.epochs=100"])
    wait_for_step(tmp_path / "run", 3, command)
    os.kill(command.pid, signal.SIGINT)
    output, errors = command.communicate()
    assert command.poll() == 128 + signal.SIGTERM, errors  # the launcher passes SIGTERM on
    assert "start the same command again to resume" in output
    assert "Traceback" not in errors
    assert final_state(tmp_path / "run")["step"] == len(losses(tmp_path / "run")) >= 3


def test_torchrun_starts_it(tmp_path, recipe):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    process = start([*torchrun, "-m", "simclr_dist", *recipe, "machine.stop_after_steps=2"])
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert "stopped after step 2 of 88" in output


def test_processes_end_when_their_launcher_is_killed(tmp_path, recipe):
    command = Command(tmp_path, [*recipe, "--processes", "2", "recipe.epochs=1000"])
    wait_for_step(tmp_path / "run", 1, command)
    processes = children_of(command.pid)
    assert len(processes) == 2
    os.kill(command.pid, signal.SIGKILL)
    command.communicate()
    deadline = time.monotonic() + 120
    while processes & running() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not processes & running()
    assert final_state(tmp_path / "run")["step"] >= 1


def test_a_user_error_inside_the_processes_is_one_line_and_status_2(tmp_path, recipe):
    (tmp_path / "run").write_text("a file where the folder should be")
    command = Command(tmp_path, [*recipe, "--processes", "2"])
    _, errors = command.communicate()
    assert command.poll() == 2
    assert complaint(errors).startswith("simclr-dist: machine.run_dir:")
