"""The seam to what the trainer does not do yet: recomputation of activations, and chunks (gradient caching).

Until machine.recompute and chunks stand in the trainer, the traced step gets them from here, so that a plan can already
say what they would give. With them in place this module goes, and nothing else changes: see ``traced_step``.
"""

from dataclasses import fields, replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from simclr_dist.config import Machine
from simclr_dist.losses import nt_xent
from simclr_dist.methods import SimCLR

RECOMPUTE = ("none", "blocks", "all")


def trainer_recomputes() -> bool:
    """Whether this version's machine half has the key ``recompute``."""
    return any(entry.name == "recompute" for entry in fields(Machine))


def with_recompute(machine: Machine, recompute: str) -> Machine:
    """The machine with machine.recompute set, where that key exists."""
    return replace(machine, **{"recompute": recompute}) if trainer_recomputes() else replace(machine)  # type: ignore[arg-type]


def recompute_activations(method: SimCLR, recompute: str) -> None:
    """Keep only the inputs of each residual block (``blocks``), of the stem and the head too (``all``)."""
    if recompute == "none":
        return
    backbone = method.encoder.backbone
    stages = (backbone.layer1, backbone.layer2, backbone.layer3, backbone.layer4)
    parts: list[nn.Module] = [block for stage in stages for block in stage]
    if recompute == "all":
        # One checkpoint for the whole stem: its convolution's output is the largest activation of all.
        stem = nn.Sequential(backbone.conv1, backbone.bn1, backbone.relu, backbone.maxpool)
        for name, part in {
            "conv1": stem,
            "bn1": nn.Identity(),
            "relu": nn.Identity(),
            "maxpool": nn.Identity(),
        }.items():
            setattr(backbone, name, part)
        parts += [stem, method.projection]
    for part in parts:
        part.forward = partial(checkpoint, part.forward, use_reentrant=False)


def chunked_gradients(method: SimCLR, images: Tensor, chunk: int) -> None:
    """Gradient caching (Gao et al. 2021): embed all without a graph, the loss, then chunk by chunk with a graph.

    Args:
        method: its batch norm must be that of a chunk.
        images: uint8, (local images, views, 3, height, width).
        chunk: images taken at once; divides the local images.
    """

    def embed(part: Tensor) -> Tensor:
        return method.projection(method.encoder(part.flatten(0, 1))).unflatten(0, part.shape[:2])  # type: ignore[no-any-return]

    with torch.no_grad():
        embeddings = torch.cat([embed(part) for part in images.split(chunk)])
    embeddings.requires_grad_()
    loss = nt_xent(embeddings[:, 0], embeddings[:, 1], method.temperature).loss
    (method.loss_scale * loss).backward()
    assert embeddings.grad is not None
    for part, gradient in zip(images.split(chunk), embeddings.grad.split(chunk), strict=True):
        embed(part).backward(gradient)
