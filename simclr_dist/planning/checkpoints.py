"""The size of a checkpoint, to the byte: what checkpoint.save would write, counted and not kept."""

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from simclr_dist.build import build_method
from simclr_dist.checkpoint import FORMAT
from simclr_dist.checksum import COMMENT_BYTES
from simclr_dist.config import Config, to_dict
from simclr_dist.optim import make_optimizer
from simclr_dist.planning.fakes import default_dtype, kernels_of
from simclr_dist.snapshot import mapped


class _Counter:
    def __init__(self) -> None:
        self.count = 0

    def write(self, content: bytes) -> int:
        self.count += len(content)
        return len(content)

    def flush(self) -> None:
        pass


def checkpoint_bytes(config: Config, images: int) -> int:
    """Bytes of one checkpoint file of a run over ``images`` (a number's own digits move it by a byte or two)."""
    with FakeTensorMode(), kernels_of("cpu"), default_dtype(config.machine.precision):
        method = build_method(config.recipe)
        optimizer = make_optimizer(method, config.recipe.optimizer)
        for parameter in method.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
    scaler = torch.amp.GradScaler("cpu", enabled=config.machine.precision == "float16")
    state = {
        "format": FORMAT,
        "model": mapped(method.state_dict(), _empty),
        "optimizer": mapped(optimizer.state_dict(), _empty),
        "scaler": scaler.state_dict(),
        "recipe": to_dict(config.recipe),
        "images": {"count": images, "fingerprint": "0" * 64},
        "step": 1,
    }
    counter = _Counter()
    torch.save(state, counter)  # type: ignore[arg-type]
    return counter.count + COMMENT_BYTES


def _empty(tensor: Tensor) -> Tensor:
    """A real tensor of the same size in place of a fake one; its memory is never touched but to read."""
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype)
