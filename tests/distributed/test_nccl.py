"""What the environment asks of NCCL that is against a promise, and its groups given up."""

import threading
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist

from simclr_dist.distributed import collectives, processes
from simclr_dist.distributed.collectives import gather_stacked
from simclr_dist.distributed.nccl import allows_nvls, begin_abort, begin_group, end_abort, is_aborted
from simclr_dist.distributed.processes import Processes
from simclr_dist.errors import StuckError
from simclr_dist.training import pretraining
from tests.support.processes import tiny_config


@pytest.mark.parametrize(
    ("algorithms", "expected"),
    [
        ("", False), ("Ring", False), ("ring,tree", False), ("NVLS", True), ("Tree,nvls", True), ("NVLSTree", True),
        ("^NVLS", False), ("^nvls,NVLSTree", False), ("^Tree", True), ("allreduce:tree,nvls;allgather:ring", True),
        ("allreduce:tree;broadcast:^nvls", False), ("ring;allreduce:^tree", True),
    ],
)  # fmt: skip
def test_whether_nccl_may_sum_in_the_switches_is_read_from_its_variable(algorithms, expected):
    assert allows_nvls(algorithms) == expected


class StoppedError(Exception):
    """Raised where the processes would meet."""


@pytest.mark.parametrize(
    ("device", "deterministic", "rank", "warned"),
    [("cuda", True, 0, True), ("cuda", True, 1, False), ("cuda", False, 0, False), ("cpu", True, 0, False)],
)
def test_a_deterministic_run_says_once_that_its_environment_asks_for_nvls(
    monkeypatch, tmp_path, logged, device, deterministic, rank, warned
):
    def stop(*_: object, **__: object) -> None:
        raise StoppedError

    monkeypatch.setenv("NCCL_ALGO", "NVLS")
    monkeypatch.setattr(pretraining, "choose_device", lambda *_: torch.device(device))
    monkeypatch.setattr(pretraining, "set_kernels", lambda **_: None)
    monkeypatch.setattr(pretraining, "process_group", stop)
    config = tiny_config(tmp_path, f"machine.deterministic={str(deterministic).lower()}")
    with pytest.raises(StoppedError):
        pretraining.pretrain(config, Processes(rank, 2, rank, 2))
    assert [line.startswith("NCCL_ALGO=NVLS allows NVLS") for line in logged if "NVLS" in line] == [True] * warned


class Backend:
    """Of a group; to abort it takes until somebody says so."""

    def __init__(self, name: str) -> None:
        self._name, self.freed, self.aborts = name, threading.Event(), 0

    def name(self) -> str:
        return self._name

    def abort(self) -> None:
        self.aborts += 1
        self.freed.wait(60)
        raise RuntimeError("as NCCL may, when a peer is gone")


@pytest.fixture(autouse=True)
def nothing_aborted() -> Iterator[None]:
    yield
    begin_group()


def in_groups(backends: list[Backend], monkeypatch: pytest.MonkeyPatch) -> None:
    groups = [SimpleNamespace(_get_backend=lambda device, backend=backend: backend) for backend in backends]
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist.distributed_c10d, "_world", SimpleNamespace(pg_map=groups))


def test_communicators_are_aborted_side_by_side_once_each_and_nobody_waits_longer_than_told(monkeypatch):
    backends = [Backend("nccl"), Backend("gloo"), Backend("nccl")]
    in_groups(backends, monkeypatch)
    begin_abort()
    begin_abort()
    backends[2].freed.set()
    assert not end_abort(0.2)
    assert [backend.aborts for backend in backends] == [1, 0, 1]
    backends[0].freed.set()
    assert end_abort(10)


def test_an_abort_that_is_asked_for_once_more_while_its_group_ends_does_not_stand_for_that_of_the_next_group(
    monkeypatch,
):
    old, new = Backend("nccl"), Backend("nccl")
    old.freed.set()
    new.freed.set()
    in_groups([old], monkeypatch)
    assert end_abort(10)
    begin_abort()
    with processes.process_group(Processes(), torch.device("cpu")):
        assert not is_aborted()
        in_groups([new], monkeypatch)
        assert end_abort(10)
    assert (old.aborts, new.aborts) == (1, 1)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool])
def test_gathered_integers_are_zeros_and_so_indices_where_an_aborted_gather_has_not_written_them(monkeypatch, dtype):
    monkeypatch.setattr(collectives, "process_count", lambda group=None: 64)
    monkeypatch.setattr(collectives, "_run", lambda *arguments, **options: None)
    for _ in range(4):  # memory that was used before
        torch.full((64, 32), 7, dtype=dtype).sum()
        assert not gather_stacked(torch.ones(32, dtype=dtype)).any()


def test_where_there_is_no_group_nothing_is_aborted():
    assert end_abort(0)


def test_a_process_whose_communicators_are_not_aborted_in_time_does_not_go_on_and_its_end_does_not_wait(monkeypatch):
    left: list[object] = []
    monkeypatch.setattr(processes, "end_abort", lambda seconds: False)
    monkeypatch.setattr(processes, "abandon_group", left.append)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        with pytest.raises(StuckError, match="could not be aborted"), processes._group_ended(abandoned_at_errors=False):
            raise RuntimeError("a peer is gone")
    finally:
        dist.destroy_process_group()
    assert left == [dist.destroy_process_group]
