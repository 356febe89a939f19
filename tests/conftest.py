"""Fixtures of all rooms, and the order of the files."""

import gc
import logging
import signal
from collections.abc import Callable, Iterator
from functools import cache, partial

import pytest

from simclr_dist.log import log
from tests.support.commands import run_command

# What takes long comes first, so that both processes of a whole suite end together.
_FIRST = (
    "test_slurm.py", "test_contract.py", "test_exactness.py", "test_drill.py", "test_launch.py", "test_anomalies.py",
    "test_evaluation.py", "test_supervised.py", "test_lost_processes.py", "test_plan_of_a_method.py", "test_gpu.py",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if (mark := item.get_closest_marker("cuda")) and not _gpu_is_there() and not mark.kwargs.get("pretended"):
            item.add_marker(pytest.mark.skip(reason="needs a GPU"))
    items.sort(key=lambda item: _FIRST.index(item.path.name) if item.path.name in _FIRST else len(_FIRST))


@cache
def _gpu_is_there() -> bool:
    import torch

    return torch.cuda.is_available()


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command takes all cores for its process: in the suite's, which shares them, threads would wait for threads."""
    monkeypatch.setattr("torch.set_num_threads", lambda count: None)


@pytest.fixture(autouse=True)
def _pretended_gpu(request: pytest.FixtureRequest) -> Iterator[None]:
    """Where there is none, for tests marked so."""
    if not request.node.get_closest_marker("cuda") or _gpu_is_there():
        yield
        return
    from tests.support.pretended_gpu import pretended_gpu

    with pretended_gpu():
        yield


def pytest_collection_finish() -> None:
    gc.freeze()  # what was imported is gone through no more


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs a command line of ``simclr-dist``: (status, standard output, standard error)."""
    return partial(run_command, capsys)


@pytest.fixture
def heeds_ctrl_c() -> Iterator[None]:
    """Also where the suite was started in the background, whose processes a shell makes ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def logged() -> Iterator[list[str]]:
    """The project's log lines. A run takes the handlers of the one before away; this filter it leaves alone."""
    lines: list[str] = []

    def note(record: logging.LogRecord) -> bool:
        lines.append(record.getMessage())
        return True

    level = log.level
    log.addFilter(note)
    log.setLevel(logging.INFO)
    yield lines
    log.removeFilter(note)
    log.setLevel(level)
