"""How a classifier is trained with labels: the published protocols of the linear probe and of fine-tuning."""

from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import nn

from simclr_dist.config.recipe import Optimizer
from simclr_dist.optim.factory import make_optimizer
from simclr_dist.optim.schedule import Schedule


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """No warm-up, no weight decay, the rate falling to 0 along a cosine (Google's code)."""

    epochs: int
    batch_images: int
    """Over all processes; no more than there are images."""
    base_learning_rate: float
    """For 256 images; in proportion to the batch."""
    momentum: float = 0.9
    optimizer: str = "sgd"
    """``sgd``: with Nesterov momentum. ``lars``: this project's (Chen et al. 2020, appendix B.6, for the probe)."""
    precision: str = "float32"
    """Of the kernels while training; ``bfloat16``: by autocast, with weights and accuracies in float32."""

    def with_choices(self, **chosen: Any) -> Self:
        """The same with what is given, unless as None, instead."""
        return replace(self, **{name: value for name, value in chosen.items() if value is not None})

    def schedule(self, peak: float, total_steps: int) -> Schedule:
        """The learning rate of each step."""
        return Schedule(peak=peak, warmup_steps=0, total_steps=total_steps)

    def make_optimizer(self, module: nn.Module) -> torch.optim.Optimizer:
        """Over what is trained of ``module``; the learning rate is set before each step.

        LARS adapts the rate of every matrix and kernel, the new linear layer's included. Google's code leaves that
        one layer out of the adaptation, which makes LARS on frozen features plain momentum SGD there.
        """
        if self.optimizer == "lars":
            return make_optimizer(module, Optimizer(name="lars", momentum=self.momentum, weight_decay=0.0))
        trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
        return torch.optim.SGD(trained, lr=0.0, momentum=self.momentum, nesterov=True)


@dataclass(frozen=True, kw_only=True)
class SegmentationProtocol(Protocol):
    """Plain momentum with weight decay, the rate falling as poly (Chen et al. 2017, arXiv 1706.05587, section 4.1)."""

    weight_decay: float = 1e-4
    scale_min: float = 0.5
    """Smallest factor of the size of a training image before it is cropped."""
    scale_max: float = 2.0
    """Largest one."""

    def schedule(self, peak: float, total_steps: int) -> Schedule:
        return Schedule(peak=peak, warmup_steps=0, total_steps=total_steps, decay="poly")

    def make_optimizer(self, module: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(module.parameters(), lr=0.0, momentum=self.momentum, weight_decay=self.weight_decay)


LINEAR = Protocol(epochs=90, batch_images=4096, base_learning_rate=0.1)
"""Chen et al. 2020, appendix B.6."""
FINE_TUNING = Protocol(epochs=60, batch_images=4096, base_learning_rate=0.05)
"""Chen et al. 2020, appendix B.5: 60 epochs with 1 % of the labels, 30 with 10 %."""
SEGMENTATION = SegmentationProtocol(epochs=1, batch_images=16, base_learning_rate=0.112)
"""Chen et al. 2017, section 4.1: 0.007 for a batch of 16, their rate for images of VOC. Epochs follow the steps."""
