"""The SHA-256 by which weights are known."""

import hashlib
from collections.abc import Sequence

import torch
from torch import nn


def state_digest(modules: Sequence[nn.Module]) -> str:
    """SHA-256 of the state of some modules, names included."""
    digest = hashlib.sha256()
    for module in modules:
        for name, value in module.state_dict().items():
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
