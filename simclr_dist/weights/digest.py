"""The SHA-256 by which weights are known."""

import hashlib
import re
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn


def state_digest(modules: Sequence[nn.Module]) -> str:
    """SHA-256 of the state of some modules, names included."""
    return tensors_digest(named for module in modules for named in module.state_dict().items())


def structure_digest(network: nn.Module) -> str:
    """SHA-256 of what the weights leave open: the layers, their strides and paddings, what is taken of an image."""
    layers = re.sub(r" at 0x[0-9a-f]+", "", repr(network))  # an object's address differs between processes
    takes = [module.takes for module in network.modules() if hasattr(module, "takes")]
    return hashlib.sha256(repr((layers, takes)).encode()).hexdigest()


def tensors_digest(named: Iterable[tuple[str, Tensor]]) -> str:
    """SHA-256 of tensors with their names, types and shapes, in their order."""
    digest = hashlib.sha256()
    for name, value in named:
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
