"""Encoders: torchvision's ResNets with the width, the stem and the batch norm that a recipe asks for."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from simclr_dist.models.batch_norm import statistics_held

_DEPTHS: dict[str, tuple[type[BasicBlock | Bottleneck], list[int]]] = {
    "resnet10": (BasicBlock, [1, 1, 1, 1]),
    "resnet18": (BasicBlock, [2, 2, 2, 2]),
    "resnet34": (BasicBlock, [3, 4, 6, 3]),
    "resnet50": (Bottleneck, [3, 4, 6, 3]),
    "resnet101": (Bottleneck, [3, 4, 23, 3]),
    "resnet152": (Bottleneck, [3, 8, 36, 3]),
}


class Encoder(nn.Module):
    """Images to features: normalisation of the pixels, then a ResNet without its classifier.

    ``backbone`` has torchvision's parameter names, so its weights go in and out of torchvision as they are.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        name: str,
        *,
        width: float = 1.0,
        stem: str = "imagenet",
        zero_init_residual: bool = True,
        mean: Sequence[float] = (0.485, 0.456, 0.406),
        std: Sequence[float] = (0.229, 0.224, 0.225),
        norm_layer: Callable[..., nn.Module] = nn.BatchNorm2d,
        recompute: str = "none",
    ) -> None:
        """A ResNet ``name`` with every channel count times ``width``.

        ``recompute``: which activations are not kept but computed again in the backward pass: none; those inside the
        residual ``blocks``; ``all``, the stem's too.

        Raises:
            ValueError: unknown name or stem, or a width that leaves less than one channel.
        """
        super().__init__()
        if name not in _DEPTHS:
            raise ValueError(f"unknown encoder '{name}'; known: {', '.join(_DEPTHS)}")
        block, depths = _DEPTHS[name]
        backbone = _WideResNet(block, depths, width, stem, zero_init_residual, norm_layer)
        backbone.recompute = recompute
        self._take(backbone, mean, std)

    @classmethod
    def of(cls, backbone: nn.Module, mean: Sequence[float], std: Sequence[float]) -> "Encoder":
        """Around a network of one's own: normalised images (rows, 3, height, width) to features (rows, output_dim).

        Raises:
            ValueError: it has no whole number ``output_dim``.
        """
        if not isinstance(getattr(backbone, "output_dim", None), int):
            raise ValueError(
                f"{type(backbone).__name__} has no output_dim, the number of its features (a whole number)"
            )
        encoder = cls.__new__(cls)
        nn.Module.__init__(encoder)
        encoder._take(backbone, mean, std)
        return encoder

    def _take(self, backbone: Any, mean: Sequence[float], std: Sequence[float]) -> None:
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)
        self.backbone = backbone
        self.output_dim: int = backbone.output_dim

    def forward(self, images: Tensor) -> Tensor:
        """Features of shape (rows, output_dim) of uint8 images of shape (rows, 3, height, width)."""
        pixels = images.to(self.mean.dtype) / 255
        features: Tensor = self.backbone((pixels - self.mean) / self.std)
        return features


class _WideResNet(ResNet):  # type: ignore[misc]
    """torchvision's ResNet with all channels widened, as the paper's (torchvision's ``wide`` widen the 3x3 only)."""

    def __init__(
        self,
        block: type[BasicBlock | Bottleneck],
        depths: list[int],
        width: float,
        stem: str,
        zero_init_residual: bool,
        norm_layer: Callable[..., nn.Module],
    ) -> None:
        self._width = width
        self.recompute = "none"
        channels = self._widened(64)
        super().__init__(block, depths, zero_init_residual=zero_init_residual, norm_layer=norm_layer)
        self.bn1 = norm_layer(channels)
        if stem == "small":
            self.conv1 = nn.Conv2d(3, channels, kernel_size=3, stride=1, padding=1, bias=False)
            self.maxpool = nn.Identity()
        elif stem == "imagenet":
            self.conv1 = nn.Conv2d(3, channels, kernel_size=7, stride=2, padding=3, bias=False)
        else:
            raise ValueError(f"unknown stem '{stem}'; known: imagenet, small")
        nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")
        self.fc = nn.Identity()
        self.output_dim = self._widened(512) * block.expansion

    def forward(self, x: Tensor) -> Tensor:
        x = self._kept_or_recomputed(self._stem, x, self.recompute == "all")
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            if self.recompute == "none":
                x = stage(x)
                continue
            for block in stage:
                x = self._kept_or_recomputed(block, x, True)
        features: Tensor = self.fc(torch.flatten(self.avgpool(x), 1))
        return features

    def _stem(self, x: Tensor) -> Tensor:
        pooled: Tensor = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        return pooled

    def _kept_or_recomputed(self, part: Callable[[Tensor], Tensor], x: Tensor, recomputed: bool) -> Tensor:
        if not recomputed or not torch.is_grad_enabled():
            return part(x)
        # The second pass must not move the running statistics again.
        module = part if isinstance(part, nn.Module) else self.bn1
        result: Tensor = checkpoint(
            part, x, use_reentrant=False, context_fn=lambda: (nullcontext(), statistics_held(module))
        )
        return result

    def _widened(self, channels: int) -> int:
        if round(channels * self._width) < 1:
            raise ValueError(f"recipe.encoder.width: {self._width:g} leaves a layer without channels; raise it")
        return round(channels * self._width)

    def _make_layer(
        self, block: type[BasicBlock | Bottleneck], planes: int, blocks: int, stride: int = 1, dilate: bool = False
    ) -> nn.Sequential:
        if planes == 64:  # the first stage continues the widened stem, not torchvision's 64 channels
            self.inplanes = self._widened(64)
        stage: nn.Sequential = super()._make_layer(block, self._widened(planes), blocks, stride, dilate)
        return stage
