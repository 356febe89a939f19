"""``simclr-dist pretrain --processes N`` whose processes are forked: what they do is all of the real ones' but the
seconds in which each imports torch."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from simclr_dist.cli.main import main
from simclr_dist.distributed.ending import end_now
from simclr_dist.launch import local
from tests.support.processes import Running


class Forked:
    """As ``subprocess.Popen([python, "-m", "simclr_dist", *arguments], env=...)``."""

    def __init__(self, command: list[str], env: dict[str, str]) -> None:
        self.returncode: int | None = None
        self.pid = os.fork()
        if self.pid:
            return
        os.closerange(3, 1024)  # as an exec does: the launcher's store ends with the launcher
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.environ.clear()
        os.environ.update(env)
        _run(main, command[3:])

    def poll(self) -> int | None:
        return self.wait(os.WNOHANG)

    def wait(self, options: int = 0) -> int | None:
        if self.returncode is None and (ended := os.waitpid(self.pid, options))[0]:
            self.returncode = os.waitstatus_to_exitcode(ended[1])
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _run(program: Callable[[list[str]], object], arguments: list[str]) -> None:
    status: Any = 1
    try:
        program(arguments)
        status = 0
    except SystemExit as ended:
        status = ended.code
    finally:
        end_now(status)


def _command(folder: Path, program: Callable[[list[str]], object], arguments: list[str]) -> None:
    for descriptor, name in ((1, "output"), (2, "errors")):
        os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)
    forked: Any = SimpleNamespace(Popen=Forked)
    local.subprocess = forked
    _run(program, arguments)


class Command:
    """The command, or another program of a test module, in a process of its own; ``pid`` is the launcher's."""

    def __init__(self, folder: Path, arguments: list[str], program: Callable[[list[str]], object] = main) -> None:
        self._folder = folder
        self._running = Running(1, _command, folder, program, arguments)
        (self._process,) = self._running.processes
        self.pid: int = self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def communicate(self, timeout: float = 300) -> tuple[str, str]:
        """What it printed and complained of, once it has ended."""
        self._process.join(timeout)
        self._running.kill()
        return (self._folder / "output").read_text(), (self._folder / "errors").read_text()
