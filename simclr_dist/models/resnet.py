"""torchvision's ResNets with the width, the stem and the batch norm that a recipe asks for, without the classifier."""

from collections.abc import Callable
from contextlib import nullcontext
from itertools import accumulate

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from simclr_dist.config.recipe import dilated_stages, widened
from simclr_dist.models.batch_norm import normalised_and_rectified, statistics_held


class _BasicBlock(BasicBlock):  # type: ignore[misc]
    """torchvision's, with batch norm, sum and ReLU as one step: on a GPU one pass over memory each way."""

    def forward(self, x: Tensor) -> Tensor:
        out = normalised_and_rectified(self.bn1, self.conv1(x))
        return normalised_and_rectified(self.bn2, self.conv2(out), x if self.downsample is None else self.downsample(x))


class _Bottleneck(Bottleneck):  # type: ignore[misc]
    """As above."""

    def forward(self, x: Tensor) -> Tensor:
        out = normalised_and_rectified(self.bn1, self.conv1(x))
        out = normalised_and_rectified(self.bn2, self.conv2(out))
        return normalised_and_rectified(self.bn3, self.conv3(out), x if self.downsample is None else self.downsample(x))


DEPTHS: dict[str, tuple[type[BasicBlock | Bottleneck], list[int]]] = {
    "resnet10": (_BasicBlock, [1, 1, 1, 1]),
    "resnet18": (_BasicBlock, [2, 2, 2, 2]),
    "resnet34": (_BasicBlock, [3, 4, 6, 3]),
    "resnet50": (_Bottleneck, [3, 4, 6, 3]),
    "resnet101": (_Bottleneck, [3, 4, 23, 3]),
    "resnet152": (_Bottleneck, [3, 8, 36, 3]),
}


class WideResNet(ResNet):  # type: ignore[misc]
    """torchvision's ResNet with all channels widened, as the paper's (torchvision's ``wide`` widen the 3x3 only)."""

    def __init__(
        self,
        block: type[BasicBlock | Bottleneck],
        depths: list[int],
        width: float,
        stem: str,
        zero_init_residual: bool,
        norm_layer: Callable[..., nn.Module],
        channels_in: int = 3,
    ) -> None:
        self._width = width
        self.recompute = "none"
        channels = self._widened(64)
        super().__init__(block, depths, zero_init_residual=zero_init_residual, norm_layer=norm_layer)
        self.bn1 = norm_layer(channels)
        if stem == "small":
            self.conv1 = nn.Conv2d(channels_in, channels, kernel_size=3, stride=1, padding=1, bias=False)
            self.maxpool = nn.Identity()
        elif stem == "imagenet":
            self.conv1 = nn.Conv2d(channels_in, channels, kernel_size=7, stride=2, padding=3, bias=False)
        else:
            raise ValueError(f"unknown stem '{stem}'; known: imagenet, small")
        nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")
        self.fc = nn.Identity()
        self.output_dim = self._widened(512) * block.expansion

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(self.map(x))

    def map(self, x: Tensor) -> Tensor:
        """Normalised images (rows, 3, height, width) to the last stage's map (rows, output_dim, h, w)."""
        x = self._kept_or_recomputed(self._stem, x, self.recompute == "all")
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            if self.recompute == "none":
                x = stage(x)
                continue
            for block in stage:
                x = self._kept_or_recomputed(block, x, True)
        return x

    def stages(self, x: Tensor) -> list[Tensor]:
        """Normalised images to the maps of the four stages (rows, d, h, w), :meth:`map`'s last; nothing recomputed."""
        stages = (self.layer1, self.layer2, self.layer3, self.layer4)
        return list(accumulate(stages, lambda maps, stage: stage(maps), initial=self._stem(x)))[1:]

    def pool(self, x: Tensor) -> Tensor:
        """A map to features (rows, output_dim)."""
        features: Tensor = self.fc(torch.flatten(self.avgpool(x), 1))
        return features

    def _stem(self, x: Tensor) -> Tensor:
        pooled: Tensor = self.maxpool(normalised_and_rectified(self.bn1, self.conv1(x)))
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
        return widened(channels, self._width)

    def _make_layer(
        self, block: type[BasicBlock | Bottleneck], planes: int, blocks: int, stride: int = 1, dilate: bool = False
    ) -> nn.Sequential:
        if planes == 64:  # the first stage continues the widened stem, not torchvision's 64 channels
            self.inplanes = self._widened(64)
        stage: nn.Sequential = super()._make_layer(block, self._widened(planes), blocks, stride, dilate)
        return stage


class Halves(nn.Module):
    """Two networks, of the lightness and of the colours of an image; their maps and features stand side by side."""

    def __init__(self, lightness: WideResNet, color: WideResNet) -> None:
        super().__init__()
        self.lightness, self.color = lightness, color
        self.output_dim = lightness.output_dim + color.output_dim

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(self.map(x))

    def map(self, x: Tensor) -> Tensor:
        """L, a and b (rows, 3, height, width) to both last maps, (rows, output_dim, h, w), the lightness' first."""
        return torch.cat((self.lightness.map(x[:, :1]), self.color.map(x[:, 1:])), dim=1)

    def stages(self, x: Tensor) -> list[Tensor]:
        """L, a and b to the maps of both networks' stages side by side, :meth:`map`'s last."""
        both = zip(self.lightness.stages(x[:, :1]), self.color.stages(x[:, 1:]), strict=True)
        return [torch.cat(maps, dim=1) for maps in both]

    def pool(self, x: Tensor) -> Tensor:
        """A map to features (rows, output_dim)."""
        lightness, color = x.split((self.lightness.output_dim, self.color.output_dim), dim=1)
        return torch.cat((self.lightness.pool(lightness), self.color.pool(color)), dim=1)


def resnets_of(backbone: nn.Module) -> list[WideResNet]:
    """The ResNets of this project that an encoder is: one, two halves, or none of one from outside."""
    parts = [backbone.lightness, backbone.color] if isinstance(backbone, Halves) else [backbone]
    return [part for part in parts if isinstance(part, WideResNet)]


def set_output_stride(network: WideResNet, output_stride: int) -> int:
    """Give the last stages dilation in place of their stride, or their stride again: the weights stay as they are.

    Returns how many are dilated.

    As torchvision's ``replace_stride_with_dilation``, which has it for bottlenecks alone: what had the stride keeps the
    dilation of the stage before, what comes after it has twice that (Chen et al. 2017, arXiv 1706.05587, section 3.1,
    without its multi-grid).

    Raises:
        ValueError: the network's stem does not leave this stride.
    """
    dilated = dilated_stages("small" if isinstance(network.maxpool, nn.Identity) else "imagenet", output_stride)
    dilation = 1
    for number, stage in enumerate((network.layer2, network.layer3, network.layer4)):
        is_dilated = number >= 3 - dilated
        before, dilation = dilation, 2 * dilation if is_dilated else dilation
        for place, block in enumerate(stage):
            block.stride = 1 if is_dilated or place else 2
            strided = block.conv2 if isinstance(block, Bottleneck) else block.conv1
            for conv in (strided, *(block.downsample or ())[:1]):
                conv.stride = (block.stride, block.stride)
            for conv in (block.conv1, block.conv2):
                if conv.kernel_size == (3, 3):
                    conv.dilation = conv.padding = (before if place == 0 and conv is strided else dilation,) * 2
    return dilated
