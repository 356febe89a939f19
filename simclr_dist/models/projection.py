"""Projection heads, as in the official code of SimCLR and SimCLR v2."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from simclr_dist.config.fields import MOST_CHANNELS, number
from simclr_dist.models.batch_norm import GroupedBatchNorm


@dataclass(kw_only=True)
class Projection:
    """Keys of a projection head, for the configs of methods that have one."""

    layers: int = number(2, low=1, high=3)
    """Linear layers of the head: 1 linear, 2 as SimCLR, 3 as SimCLR v2."""
    hidden_dim: int = number(0, low=0, high=MOST_CHANNELS)
    """Units of the hidden layers; 0 takes the encoder's output size, as the paper."""
    output_dim: int = number(128, low=2, high=MOST_CHANNELS)
    """Size of the embedding that the loss sees."""
    batch_norm: bool = True
    """Batch norm after every layer, the last one without an offset, as the official code."""


def projection_head(
    input_dim: int,
    *,
    layers: int = 2,
    hidden_dim: int = 0,
    output_dim: int = 128,
    batch_norm: bool = True,
    norm_layer: Callable[..., nn.Module] = GroupedBatchNorm,
) -> nn.Sequential:
    """Linear layers with ReLU between (Chen et al. 2020, section 2.1 and appendix B.9; v2: section 2).

    With ``batch_norm`` a layer has a batch norm in place of its bias, and the last one's has no offset, as in Google's
    ``model.py``. ``hidden_dim`` 0 takes ``input_dim``.
    """
    head = nn.Sequential()
    size = input_dim
    for layer in range(1, layers + 1):
        last = layer == layers
        units = output_dim if last else hidden_dim or input_dim
        linear = nn.Linear(size, units, bias=not batch_norm)
        nn.init.normal_(linear.weight, std=0.01)
        if linear.bias is not None:
            nn.init.zeros_(linear.bias)
        head.add_module(f"linear_{layer}", linear)
        if batch_norm:
            head.add_module(f"norm_{layer}", norm_layer(units, bias=not last))
        if not last:
            head.add_module(f"relu_{layer}", nn.ReLU(inplace=True))
        size = units
    return head
