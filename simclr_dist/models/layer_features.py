"""Features of an encoder's last blocks or stages, in one pass."""

import inspect
from typing import Any, NamedTuple

from torch import Tensor

from simclr_dist.models.encoder import Encoder
from simclr_dist.models.timm_encoder import TimmEncoder


class LayerFeatures(NamedTuple):
    """What an encoder's last blocks (of a transformer) or stages (of what makes maps) make of some images."""

    pooled: list[Tensor]
    """(rows, d) of each, the last one's last: the encoder's own features. Of a map the mean over its pixels; of tokens
    the class token where the encoder's features are one, else the mean of the patches."""
    patches: Tensor | None = None
    """(rows, d): the mean of the last block's patches, where ``pooled`` are class tokens."""


def layer_features(encoder: Encoder, images: Tensor, most: int) -> LayerFeatures:
    """Of the last ``most`` layers, or of as many as there are; of uint8 images (rows, 3, height, width).

    A network from outside that has no ``stages(pixels)`` (maps, the last one's last) gives its own features alone.
    """
    pixels = encoder.pixels_of(images)
    if isinstance(encoder, TimmEncoder):
        return _of_timm(encoder.backbone, pixels, most)
    if not hasattr(encoder.backbone, "stages"):
        return LayerFeatures([encoder(images)])
    *before, last = list(encoder.backbone.stages(pixels))[-most:]
    return LayerFeatures([*(maps.mean((2, 3)) for maps in before), encoder.pool(last)])


def _of_timm(model: Any, pixels: Tensor, most: int) -> LayerFeatures:
    """As timm's ``forward_intermediates`` has them; the blocks of a ViT behind its last norm, as DINOv2 takes them."""
    there = len(getattr(model, "feature_info", ()))
    if not there or not hasattr(model, "forward_intermediates"):
        return LayerFeatures([model(pixels)])
    choices = {}
    if "return_prefix_tokens" in inspect.signature(model.forward_intermediates).parameters:
        choices = {"return_prefix_tokens": True, "norm": True}
    made, found = model.forward_intermediates(pixels, indices=min(most, there), output_fmt="NCHW", **choices)
    maps = [each[0] if isinstance(each, tuple) else each for each in found]
    own = model.forward_head(made)
    if not isinstance(found[0], tuple) or getattr(model, "global_pool", "") != "token":
        return LayerFeatures([*(each.mean((2, 3)) for each in maps[:-1]), own])
    return LayerFeatures([*(prefix[:, 0] for _, prefix in found[:-1]), own], maps[-1].mean((2, 3)))
