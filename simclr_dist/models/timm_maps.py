"""Which parameters of a model of timm its map does not depend on, asked without computing anything."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call


class _Features(nn.Module):
    """What timm's model makes before it pools, as a module of its own."""

    def __init__(self, backbone: Any) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, pixels: Tensor) -> Tensor:
        made: Tensor = self.backbone.forward_features(pixels)
        return made


def behind_the_map(backbone: Any) -> list[nn.Parameter]:
    """The parameters that act in timm's ``forward_head`` alone: ConvNeXt's ``head.norm``, ``fc_norm`` of a ViT whose
    features are the mean of its patches.

    Which they are no list of names can know: a backward pass from the features, of tensors without data, tells. Where
    torch knows a layer only with data, none are named, and the check of the rules refuses those before the first step.
    """
    # Not above: it imports torchvision, which takes as long as torch, and `config` needs a method's keys alone.
    from simclr_dist.models.features import evaluating

    network = _Features(backbone)
    own = dict(network.named_parameters())
    blank: dict[str, Tensor] = {name: torch.empty_like(each, device="meta") for name, each in own.items()}
    for each in blank.values():
        each.requires_grad_()
    buffers = {name: torch.empty_like(each, device="meta") for name, each in network.named_buffers()}
    side = _side(backbone)
    with evaluating(network), torch.enable_grad():
        try:
            pixels = torch.empty(2, 3, side, side, device="meta")
            made = functional_call(network, {**blank, **buffers}, (pixels,))
            gradients = torch.autograd.grad(made.sum(), list(blank.values()), allow_unused=True)
        except Exception:  # each model has its own
            return []
    return [each for each, gradient in zip(own.values(), gradients, strict=True) if gradient is None]


def _side(backbone: Any) -> int:
    """Of images that it takes, in pixels."""
    own = getattr(getattr(backbone, "patch_embed", None), "img_size", None)
    known = own or getattr(backbone, "default_cfg", {}).get("input_size", (3, 224, 224))
    return int(known[-1] if isinstance(known, tuple | list) else known)
