"""Convolutions whose gradient a CPU does not compute in half precision, found before the first step."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

from simclr_dist.errors import AgreedError

_HALF = {torch.bfloat16: "bfloat16", torch.float16: "float16"}


@contextmanager
def refusing_unwritten_gradients(network: nn.Module, half: torch.dtype | None) -> Iterator[None]:
    """Inside, a trained convolution whose map is smaller than its stride is refused, on a CPU in half precision.

    The gradient of its weight is memory that nobody wrote there: NaN or any numbers, in torch 2.14.1 with bfloat16 and
    kernels of more than one pixel (a 3 x 3 of stride 2 on a map of 1 x 1, say). float32 is right. float16 was right,
    too, on a CPU that has no instructions for it, and is refused with it.

    Raises:
        AgreedError: naming the layer; within, where it is called.
    """
    if half not in _HALF:
        yield
        return
    layers = [(name, each) for name, each in network.named_modules() if isinstance(each, nn.Conv2d)]
    hooks = [each.register_forward_pre_hook(partial(_refuse, name, _HALF[half])) for name, each in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _refuse(name: str, precision: str, layer: nn.Module, given: Any) -> None:
    assert isinstance(layer, nn.Conv2d)
    maps = given[0]
    if maps.device.type != "cpu" or not (torch.is_grad_enabled() and layer.weight.requires_grad):
        return
    if max(layer.kernel_size) > 1 and any(
        side < stride for side, stride in zip(maps.shape[-2:], layer.stride, strict=True)
    ):
        height, width = maps.shape[-2:]
        raise AgreedError(
            f"machine.precision: {precision} on a CPU: {name} has the stride {max(layer.stride)} and gets maps of "
            f"{height} x {width} pixels, for which torch makes a gradient of memory that nobody wrote; set "
            "machine.precision=float32, or take larger views (recipe.views, recipe.data.image_size)"
        )
