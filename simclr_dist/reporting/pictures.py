"""Pictures inside the page: data URIs, sprites, kernels, feature maps."""

import base64
import io

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torchvision.models.resnet import ResNet
from torchvision.utils import make_grid

from simclr_dist.models.encoder import Encoder
from simclr_dist.reporting import Missing

Pixels = NDArray[np.uint8]


def data_uri(pixels: Tensor, kind: str = "PNG") -> str:
    """A uint8 picture of shape (3, height, width) as a PNG or JPEG in a URI."""
    buffer = io.BytesIO()
    options = {"quality": 80} if kind == "JPEG" else {"optimize": True}
    Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy()).save(buffer, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def compact_uri(pixels: Tensor) -> str:
    """PNG or JPEG, whichever is smaller: photographs as JPEG, drawings as they are."""
    return min((data_uri(pixels, kind) for kind in ("PNG", "JPEG")), key=len)


def sprite(thumbnails: Tensor) -> tuple[Tensor, int]:
    """All thumbnails (n, 3, side, side) in one picture, and how many stand in a row."""
    columns = int(np.ceil(np.sqrt(len(thumbnails))))
    picture: Tensor = make_grid(thumbnails, nrow=columns, padding=0)
    return picture, columns


def grid(tiles: Tensor, columns: int, padding: int = 1) -> Tensor:
    """Pictures (n, 3, side, side) in rows, on mid-grey, which suits light and dark pages."""
    picture: Tensor = make_grid(tiles, nrow=columns, padding=padding, pad_value=128)
    return picture


def first_kernels(encoder: Encoder, most: int) -> Tensor:
    """``most`` kernels of the first convolution as uint8 (n, 3, k, k), each stretched to the whole range.

    Raises:
        Missing: the encoder has no convolution, or the first is not of three channels.
    """
    weights = first_convolution(encoder).weight.detach()[:most].float()
    low, high = weights.amin((1, 2, 3), keepdim=True), weights.amax((1, 2, 3), keepdim=True)
    stretched: Tensor = ((weights - low) / (high - low).clamp_min(1e-12) * 255).round().to(torch.uint8)
    return stretched


def first_convolution(encoder: Encoder) -> nn.Conv2d:
    """The first in the order of the encoder's layers.

    Raises:
        Missing: there is none, or it is not of three channels.
    """
    first = next((layer for layer in encoder.backbone.modules() if isinstance(layer, nn.Conv2d)), None)
    if first is None or first.weight.shape[1] != 3:
        raise Missing("The encoder does not begin with a convolution of colours, so there are no kernels to show.")
    return first


@torch.inference_mode()
def feature_maps(encoder: Encoder, image: Tensor, channels: int = 12) -> list[tuple[str, Tensor]]:
    """(stage, uint8 (n, 3, h, w)) of the channels that vary most over a uint8 image (3, side, side), stage by stage.

    Raises:
        Missing: the encoder is no ResNet.
    """
    backbone, found = encoder.backbone, []
    if not isinstance(backbone, ResNet):
        raise Missing(f"The encoder is no ResNet but {type(backbone).__name__}, whose stages are not known here.")
    stages: list[tuple[str, nn.Module]] = [("stem", backbone.bn1)]
    stages += [(f"stage {number}", getattr(backbone, f"layer{number}")) for number in (1, 2, 3, 4)]
    kept: dict[str, Tensor] = {}
    hooks = [
        module.register_forward_hook(lambda _, __, output, name=name: kept.__setitem__(name, output.clone()))
        for name, module in stages
    ]
    try:
        encoder.eval()(image[None])
    finally:
        for hook in hooks:
            hook.remove()
    for name, _ in stages:
        maps = kept[name][0].float()
        spread = maps.flatten(1).std(1, unbiased=False)
        maps = maps[spread.argsort(descending=True, stable=True)[:channels]]
        low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
        found.append((name, _heat((maps - low) / (high - low).clamp_min(1e-12))))
    return found


def _heat(values: Tensor) -> Tensor:
    """0..1 of shape (n, h, w) in matplotlib's viridis."""
    from matplotlib import colormaps

    colored: Pixels = colormaps["viridis"](values.numpy(), bytes=True)[..., :3]
    return torch.from_numpy(np.ascontiguousarray(colored)).permute(0, 3, 1, 2)
