"""What the probes of a grid are given: the features of several layers of an encoder side by side, and which of them."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from simclr_dist.models.encoder import Encoder
from simclr_dist.models.features import evaluating
from simclr_dist.models.layer_features import layer_features

LAYERS = (1, 2, 4)
"""How many of the last blocks or stages; DINOv2's code (dinov2/eval/linear.py) takes 1 and 4."""


class ProbeInput(NamedTuple):
    """One choice of layers and pooling."""

    name: str
    """``last 4, class token + patches``."""
    columns: slice
    """Of :class:`LayerColumns`."""


class LayerColumns(nn.Module):
    """uint8 images (rows, 3, height, width) to the features of the last layers side by side, (rows, columns).

    The last layer's, the encoder's own, stand behind those of the layers before it, and the mean of its patches last.
    """

    def __init__(self, encoder: Encoder, image_size: int) -> None:
        super().__init__()
        self.encoder = encoder
        images = torch.zeros(1, 3, image_size, image_size, dtype=torch.uint8, device=encoder.mean.device)
        with evaluating(encoder), torch.inference_mode():
            found = layer_features(encoder, images, max(LAYERS))
        self.widths = [part.shape[1] for part in found.pooled]
        """Columns of each layer, the last one's last."""
        self.patches = 0 if found.patches is None else found.patches.shape[1]
        """Columns of the mean of the last layer's patches; 0 where there are none beside a class token."""

    def forward(self, images: Tensor) -> Tensor:
        found = layer_features(self.encoder, images, max(LAYERS))
        return torch.cat([*found.pooled, *([] if found.patches is None else [found.patches])], dim=1)

    def parts(self) -> list[slice]:
        """The columns of each layer and of the patches."""
        ends = torch.tensor([0, *self.widths, *([self.patches] if self.patches else [])]).cumsum(0).tolist()
        return [slice(start, end) for start, end in pairwise(ends)]

    def inputs(self) -> list[ProbeInput]:
        """Every choice of layers and pooling that this encoder has."""
        end = sum(self.widths)
        made = []
        for layers in [count for count in LAYERS if count <= len(self.widths)]:
            start = end - sum(self.widths[-layers:])
            if not self.patches:
                made.append(ProbeInput(f"last {layers}", slice(start, end)))
                continue
            made.append(ProbeInput(f"last {layers}, class token", slice(start, end)))
            made.append(ProbeInput(f"last {layers}, class token + patches", slice(start, end + self.patches)))
        return made


def scales(columns: Tensor, parts: Sequence[slice]) -> Tensor:
    """A factor for each column, the same within a part, with which the mean square of a part's numbers is one.

    DINOv2's learning rates are for features behind a layer norm; those of maps have any scale.

    Args:
        columns: (rows, columns) of some training images.
        parts: of the columns.
    """
    made = torch.ones(columns.shape[1], dtype=torch.float64)
    for part in parts:
        root = columns[:, part].double().square().mean().sqrt()
        made[part] = 1 / root if root > 0 else 1.0
    return made.float()
