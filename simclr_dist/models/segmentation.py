"""A network for semantic segmentation: an encoder's map, and DeepLabV3's head on it."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from simclr_dist.models.batch_norm import GroupedBatchNorm
from simclr_dist.models.encoder import Encoder
from simclr_dist.models.resizing import resized_logits

ATROUS_RATES = (6, 12, 18)
"""Of the three dilated branches; twice that where two stages of the encoder are dilated, at output stride 8 (Chen et
al. 2017, arXiv 1706.05587, section 3.3)."""


class SegmentationNetwork(nn.Module):
    """uint8 images (rows, 3, height, width) to logits (rows, classes, height, width)."""

    def __init__(self, encoder: Encoder, classifier: nn.Module) -> None:
        super().__init__()
        self.encoder, self.classifier = encoder, classifier

    def forward(self, images: Tensor) -> Tensor:
        """The logits of every pixel: those of the map, resized (bilinear, as torchvision's DeepLabV3)."""
        logits = self.classifier(self.encoder.map(images))
        height, width = images.shape[-2:]
        return resized_logits(logits, (height, width))


def deeplab_v3(
    encoder: Encoder,
    classes: int,
    *,
    seed: int = 0,
    output_stride: int = 0,
    norm_layer: Callable[..., nn.Module] = GroupedBatchNorm,
) -> SegmentationNetwork:
    """torchvision's DeepLabV3 head on an encoder, which becomes part of the network.

    The encoder's weights stay, its last stages are dilated to ``output_stride``; what it has behind its map is frozen.
    The head's initial weights depend on ``seed`` alone. Its dropout is left out: which numbers fall would depend on the
    number of processes.

    Args:
        encoder: a ResNet of this project, or one from outside with maps; that one's stride is its own affair.
        classes: of pixels.
        seed: of the head's initial weights.
        output_stride: as recipe.encoder.output_stride: 16 or 8, with the small stem 4 or 2, 0 for the network's own.
        norm_layer: the head's batch norm, which is to have the encoder's groups of images.

    Raises:
        ValueError: the encoder's stem does not leave this stride.
        UserError: the encoder has no maps.
    """
    # Not above: torchvision takes as long to import as torch.
    from torchvision.models.segmentation.deeplabv3 import DeepLabHead

    from simclr_dist.models.resnet import resnets_of, set_output_stride

    encoder.require_map()
    encoder.maps_only()
    dilated = max([set_output_stride(each, output_stride) for each in resnets_of(encoder.backbone)], default=0)
    rates = [rate * (2 if dilated == 2 else 1) for rate in ATROUS_RATES]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = DeepLabHead(encoder.output_dim, classes, rates)
    _replace(head, nn.BatchNorm2d, lambda norm: norm_layer(norm.num_features))
    _replace(head, nn.Dropout, lambda _: nn.Identity())
    return SegmentationNetwork(encoder, head)


def _replace(network: nn.Module, kind: type[nn.Module], make: Callable[..., nn.Module]) -> None:
    for name, child in network.named_children():
        if isinstance(child, kind):
            setattr(network, name, make(child))
        else:
            _replace(child, kind, make)
