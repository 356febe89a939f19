"""A section of benchmarks/gpu.py in a process of its own, which is ended when its time is over."""

import json
import multiprocessing
import os
import signal
import sys
import time
import traceback
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path

import torch

from gpu_sections import Section
from gpu_sections.here import Here, Row

CONTEXT = multiprocessing.get_context("fork")
"""Sections are forked, so that torch is loaded once. CUDA bears no fork once it is begun: the one that forks must never
touch it."""


@dataclass
class Found:
    """What is known of a section."""

    section: Section
    state: str = "was not begun: no time was left"
    seconds: float = 0.0
    rows: list[Row] = field(default_factory=list)


class Running:
    """A section in its process."""

    def __init__(self, section: Section, here: Here, out: Path) -> None:
        self.found = Found(section)
        self._rows = out / f"{section.name}.jsonl"
        self._log = out / f"{section.name}.log"
        self._rows.write_text("")
        folder = here.folder / section.name
        folder.mkdir()
        # A rehearsal may have to share its cores with anything.
        self._seconds = section.seconds * here.size(1, 10)
        self._begun = time.monotonic()
        self._process = CONTEXT.Process(
            target=_measure, args=(section.name, Here(here.on_gpu, folder), self._rows, self._log)
        )
        self._process.start()

    def finish(self, until: float) -> Found:
        """What it has found when it ends, or is ended at ``until``."""
        found = self.found
        self._process.join(max(0.0, min(until, self._begun + self._seconds) - time.monotonic()))
        if self._process.is_alive():
            found.state = f"was ended after {time.monotonic() - self._begun:.0f} s; what it had found is kept"
        else:
            found.state = "done" if self._process.exitcode == 0 else self._why()
        assert self._process.pid is not None
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)  # with all that it has started
        self._process.join()
        found.seconds = time.monotonic() - self._begun
        # The last line may be half of one.
        whole = [line for line in self._rows.read_text().splitlines(keepends=True) if line.endswith("\n")]
        found.rows = [Row(**json.loads(line)) for line in whole]
        return found

    def _why(self) -> str:
        lines = [line for line in self._log.read_text(errors="replace").splitlines() if line.strip()]
        return f"failed with status {self._process.exitcode}: {lines[-1][:200] if lines else 'it said nothing'}"


def _measure(name: str, here: Here, rows: Path, log: Path) -> None:
    """In a section's process, which leads a process group of its own."""
    os.setsid()
    with log.open("w", buffering=1) as printed, rows.open("a", buffering=1) as found:
        os.dup2(printed.fileno(), 1)
        os.dup2(printed.fileno(), 2)
        try:
            if not here.on_gpu:
                torch.set_num_threads(1)
            for row in import_module(f"gpu_sections.{name}").rows(here):
                print(json.dumps(asdict(row)), file=found)
        except Exception:
            traceback.print_exc(file=printed)
            sys.exit(1)
