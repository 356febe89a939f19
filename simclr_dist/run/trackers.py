"""The processes that send a run's metrics to Weights & Biases and MLflow, as the training sees them.

It starts them, logs what they say, and tells them that it has ended. It waits for them only then, and not for long.
"""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from simclr_dist.config.tracking import Tracking
from simclr_dist.errors import UserError
from simclr_dist.log import log
from simclr_dist.storage.paths import refuse_not_utf8
from simclr_dist.terminal import typed

# Short: a job whose time is over must still go back into the queue.
_PATIENCE_SECONDS = 20.0


def tracking_folder(run_dir: Path) -> Path:
    """What is kept of trackers: which run it is there, how far it was sent, what went wrong."""
    return run_dir / "tracking"


def refuse_missing(tracking: Tracking) -> None:
    """
    Raises:
        UserError: a tracker is asked for and its package is not installed.
    """
    for name in tracking.asked_for:
        found = find_spec(name)
        if found is None or found.origin is None:  # a folder of that name, as W&B leaves them, is no package
            key = {"wandb": "project", "mlflow": "experiment"}[name]
            raise UserError(
                f"machine.tracking.{name}.{key}: the package {name} is not installed; pip install "
                f"'simclr_dist[{name}]', or leave the key empty and send the run later with simclr-dist track"
            )


def refuse_run_dir(run_dir: Path, tracking: Tracking) -> None:
    """
    Raises:
        UserError: its path is none that the trackers asked for can write to, or read files below.
    """
    for name in tracking.asked_for:
        refuse_not_utf8(run_dir.resolve(), name)


class Trackers:
    """One process for each tracker that is asked for: where one hangs the others do not."""

    def __init__(self, run_dir: Path, tracking: Tracking) -> None:
        """Start them; metrics.jsonl must be as this start of the run continues it."""
        self._run_dir = run_dir
        self._processes = {name: process for name in tracking.asked_for if (process := _started(run_dir, name))}

    def poll(self) -> None:
        """Log what they have said. Called in every step: it takes microseconds."""
        for name, process in list(self._processes.items()):
            self._log(name, process)
            if process.poll() is not None:
                self._log(name, process)
                self._missed(name, f"its process has ended, {_how(process.returncode)}")
                del self._processes[name]

    def close(self) -> None:
        """Let them send what is left, for 20 seconds at most."""
        for process in self._processes.values():
            with suppress(OSError):
                assert process.stdin
                process.stdin.write(b"end\n")
                process.stdin.close()
        began, said = time.monotonic(), False
        while any(process.poll() is None for process in self._processes.values()):
            waited = time.monotonic() - began
            if waited > _PATIENCE_SECONDS:
                break
            if waited > 1.5 and not said:
                names = " and ".join(self._processes)
                log.info("tracking: sending the rest to %s, for %.0f s at most", names, _PATIENCE_SECONDS)
                said = True
            for name, process in self._processes.items():
                self._log(name, process)
            time.sleep(0.02)
        for name, process in self._processes.items():
            self._log(name, process)
            if process.poll() is None:
                with suppress(OSError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                self._missed(name, f"it has not sent all after {_PATIENCE_SECONDS:.0f} s")
            elif process.returncode:
                self._missed(name, f"its process has ended, {_how(process.returncode)}")
        self._processes = {}

    def _log(self, name: str, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout
        with suppress(OSError):  # nothing to read now
            for line in os.read(process.stdout.fileno(), 2**16).decode(errors="replace").splitlines():
                log.info("tracking: %s: %s", name, line)

    def _missed(self, name: str, why: str) -> None:
        log.warning(
            "tracking warning: %s: %s; the run is not touched; the next start, or %s, sends what is missing (%s)",
            name, why, typed("track", self._run_dir), _log_file(self._run_dir, name),
        )  # fmt: skip


def _log_file(run_dir: Path, name: str) -> Path:
    return tracking_folder(run_dir) / f"{name}.log"


def _started(run_dir: Path, name: str) -> subprocess.Popen[bytes] | None:
    command = [sys.executable, "-m", "simclr_dist", "track", str(run_dir), "--follow", name]
    try:
        _log_file(run_dir, name).parent.mkdir(exist_ok=True)
        with _log_file(run_dir, name).open("ab") as errors:
            # In a session of its own: what the terminal sends to the training is not for it.
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, start_new_session=True
            )
    except OSError as error:
        log.warning("tracking warning: %s: cannot be started: %s; the run continues", name, error.strerror)
        return None
    assert process.stdout
    os.set_blocking(process.stdout.fileno(), False)
    return process


def _how(status: int) -> str:
    return f"by signal {-status}" if status < 0 else f"status {status}"
