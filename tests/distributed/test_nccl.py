"""What the environment asks of NCCL that is against a promise."""

import pytest
import torch

from simclr_dist.distributed.nccl import allows_nvls
from simclr_dist.distributed.processes import Processes
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
