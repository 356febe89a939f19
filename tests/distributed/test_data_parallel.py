"""DDP's buckets settled before the first step."""

from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from torch import nn

from simclr_dist.distributed.data_parallel import settle_buckets


@pytest.fixture
def group_of_one() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_settling_buckets_keeps_the_generators_of_no_other_gpu_and_leaves_no_trace(group_of_one, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: pytest.fail(f"asked of GPU {device}"))
    module, drawn = nn.parallel.DistributedDataParallel(nn.Linear(3, 2)), torch.get_rng_state()
    buffer = torch.zeros(1)

    def backward() -> None:
        buffer.fill_(torch.rand(1).item())
        module(torch.ones(1, 3)).sum().backward()

    settle_buckets(module, [buffer], backward)
    assert torch.equal(torch.get_rng_state(), drawn)
    assert not buffer.any()
    assert all(parameter.grad is None for parameter in module.parameters())
