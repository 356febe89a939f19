"""Each process has a GPU of its own, and one carries what is its alone: tried with pretended GPUs."""

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist

from simclr_dist.distributed import devices, processes
from simclr_dist.distributed.devices import choose_device, refuse_shared_gpus, require_devices
from simclr_dist.distributed.processes import Processes, process_group
from simclr_dist.errors import UserError
from simclr_dist.evaluation import frozen
from tests.support.groups import started
from tests.support.processes import run_distributed

CPU = torch.device("cpu")


@pytest.fixture
def visible(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Pretends so many GPUs."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    return lambda count: monkeypatch.setattr(torch.cuda, "device_count", lambda: count)


def test_the_one_gpu_that_a_task_sees_is_its_own_whatever_its_local_rank(visible):
    visible(1)
    assert choose_device("auto", 3) == torch.device("cuda", 0)
    visible(4)
    assert choose_device("cuda", 3) == torch.device("cuda", 3)
    with pytest.raises(UserError, match="local process 4 has no GPU of its own"):
        choose_device("cuda", 4)


def test_more_processes_than_gpus_are_not_started_here(visible):
    visible(1)
    require_devices("auto", 1)
    require_devices("cpu", 2)
    with pytest.raises(UserError, match="local process 1 has no GPU of its own"):
        require_devices("auto", 2)


def refusal_of_gpus(uuids: list[str]) -> str:
    own = SimpleNamespace(uuid=uuids[dist.get_rank()])
    torch.cuda.get_device_properties = lambda device: own
    devices.host_here = lambda: "node0"
    try:
        refuse_shared_gpus(torch.device("cuda", 0))
    except UserError as error:
        return str(error)
    return "each has its own"


def test_processes_that_share_a_gpu_are_refused_by_name_before_nccl_meets_them():
    same, own = (run_distributed(2, refusal_of_gpus, uuids) for uuids in (["GPU-1", "GPU-1"], ["GPU-1", "GPU-2"]))
    assert same[0] == same[1]
    assert same[0].startswith("machine.device: processes 0, 1 on node0 have the same GPU (GPU-1)")
    assert own == ["each has its own"] * 2


def test_on_gpus_flags_and_objects_go_through_gloo_beside_nccl(monkeypatch):
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    for name, value in (shared | {"TORCH_NCCL_ASYNC_ERROR_HANDLING": "0"}).items():
        monkeypatch.setenv(name, value)
    asked: list[Any] = []
    monkeypatch.setattr(torch.cuda, "set_device", asked.append)
    monkeypatch.setattr(dist, "init_process_group", lambda backend, **_: asked.append(backend))
    monkeypatch.setattr(processes, "refuse_shared_gpus", asked.append)
    gpu = torch.device("cuda", 0)
    with process_group(Processes(0, 2, 0, 2), gpu):
        pass
    assert asked == [gpu, "cpu:gloo,cuda:nccl", gpu]


def probe_by_first(rank: int, count: int, folder: Path) -> bool:
    """A probe on features that are there; whether the group is over when this process is through with it."""
    features, labels = np.eye(4, dtype=np.float32), np.arange(4) % 2
    context: Any = SimpleNamespace(
        train=range(4), train_features=features, train_labels=labels, test_features=features, test_labels=labels,
        how=SimpleNamespace(talks=False, device=CPU), result=lambda *_: "result",
    )  # fmt: skip

    def chosen_probe(*_: Any, **__: Any) -> Any:
        deadline = time.monotonic() + 60
        while not (folder / "left").exists():  # as long as the other process is there
            assert time.monotonic() < deadline, "the other process waits for this one"
            time.sleep(0.01)
        return SimpleNamespace(
            scores=lambda rows: rows[:, :2], inverse_l2=1.0, validation={}, held_out=np.arange(2)
        )  # fmt: skip

    frozen.chosen_probe = chosen_probe  # type: ignore[attr-defined]
    with process_group(Processes(rank, count, 0, 1), CPU, 60):
        found = frozen.probe(context)
        over = not dist.is_initialized()
    if rank:
        assert found is None
        (folder / "left").touch()
    return over


def test_while_process_0_fits_a_probe_the_others_have_left(tmp_path):
    with started(2, probe_by_first, tmp_path) as both:
        assert [process.results()[0] for process in both] == [True, True]
