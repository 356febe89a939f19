"""What stands around a traced step: processes that are not there, and the code paths of another device."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from simclr_dist.losses import tiles
from simclr_dist.optim import lamb, lars


@contextmanager
def fake_processes(count: int) -> Iterator[None]:
    """A process group of ``count`` of which only this process exists."""
    if count == 1:
        yield
        return
    # Internal in name, but the only public way in is the store; it is what torch's own planning tools import.
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=count)
    try:
        yield
    finally:
        dist.destroy_process_group()


@contextmanager
def fake_mode() -> Iterator[None]:
    """Inside, tensors are fake; those from outside become so when they are used.

    A teacher is made by copy.deepcopy, which torch's fake tensors (parameters are of the same class) do not know.
    """
    FakeTensor.__deepcopy__ = _copied  # type: ignore[assignment]
    try:
        with FakeTensorMode(allow_non_fake_inputs=True):
            yield
    finally:
        del FakeTensor.__deepcopy__


def _copied(tensor: FakeTensor, memo: dict[int, Any]) -> Tensor:
    copy = tensor.detach().clone()
    if isinstance(tensor, nn.Parameter):
        copy = nn.Parameter(copy, tensor.requires_grad)
    memo[id(tensor)] = copy
    return copy


def no_scaler() -> torch.amp.GradScaler:
    """Gradient scaling that leaves gradients alone: the true one reads values, which fake tensors do not have."""
    return torch.amp.GradScaler("cpu", enabled=False)


@contextmanager
def kernels_of(device: str) -> Iterator[None]:
    """The loss, LARS and LAMB choose their ways by the tensors' device, which is always a fake CPU here.

    With ``cuda`` the loss's tiles are a GPU's. LARS and LAMB go a GPU's way on any device: theirs on a CPU read values,
    which fake tensors do not have, and LARS's needs less memory.
    """
    tile, fusible, host_has_values = tiles._CPU_TILE, lars._fusible, lamb._host_has_values
    tiles._CPU_TILE = tiles._DEVICE_TILE if device == "cuda" else tile
    lars._fusible = lambda *_: False
    lamb._host_has_values = lambda _: False
    try:
        yield
    finally:
        tiles._CPU_TILE, lars._fusible, lamb._host_has_values = tile, fusible, host_has_values


@contextmanager
def default_dtype(precision: str) -> Iterator[None]:
    """New tensors are of the weights' type: Module.to() refuses fake tensors, so they are made in it."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64 if precision == "float64" else torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
