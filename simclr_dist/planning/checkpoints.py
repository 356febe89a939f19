"""The size of a checkpoint, to the byte: what checkpoint.save would write, counted and not kept."""

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from simclr_dist.build import build_method
from simclr_dist.checkpoint import _COMMENT_BYTES, FORMAT
from simclr_dist.config import Config, to_dict
from simclr_dist.optim import make_optimizer
from simclr_dist.planning.fakes import default_dtype, kernels_of


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
        "model": _empty(method.state_dict()),
        "optimizer": _empty(optimizer.state_dict()),
        "scaler": scaler.state_dict(),
        "recipe": to_dict(config.recipe),
        "images": {"count": images, "fingerprint": "0" * 64},
        "step": 1,
    }
    counter = _Counter()
    torch.save(state, counter)  # type: ignore[arg-type]
    return counter.count + _COMMENT_BYTES


def _empty(node: Any) -> Any:
    """The same with real tensors of the same sizes in place of fake ones; their memory is never touched but to read."""
    if isinstance(node, Tensor):
        return torch.empty_strided(node.shape, node.stride(), dtype=node.dtype)
    if isinstance(node, dict):
        copied: Any = type(node)((key, _empty(value)) for key, value in node.items())
        if isinstance(node, OrderedDict) and hasattr(node, "_metadata"):
            copied._metadata = node._metadata  # of state_dict(); it is saved too
        return copied
    return [_empty(value) for value in node] if isinstance(node, list) else node
