"""A method of two groups of views and keys of every type, for tests: `tests.support.two_sizes:TwoSizes`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from simclr_dist.config.fields import number, one_of
from simclr_dist.methods.base import Batch, Method, MethodKeys, Metric, Tensors, ViewGroup
from simclr_dist.methods.parts import Parts

NAME = "tests.support.two_sizes:TwoSizes"


@dataclass(kw_only=True)
class Head:
    """Keys one level deeper."""

    width: int = number(8, low=1)
    """Features of the head."""
    norm: bool = False
    """Whether there is one."""


class TwoSizes(Method):
    """The spread of the small views' features around the large ones'."""

    @dataclass(kw_only=True)
    class Config(MethodKeys):
        """A key of each type."""

        crops: int = number(3, low=1)
        """How many small views."""
        scale: float = number(2.0, above=0.0)
        """Multiplies the loss."""
        centred: bool = True
        """Whether the mean goes away."""
        label: str = "plain"
        """Words."""
        rule: str = one_of("mean", ("mean", "sum"))
        """How the views come together."""
        head: Head = field(default_factory=Head)

    METRICS: ClassVar = {"spread": Metric(title="spread of the small views", unit="%", band=True)}

    @classmethod
    def views(cls, config: Any) -> dict[str, ViewGroup]:
        return {
            "large": ViewGroup(count=2, crop_area_min=0.4),
            "small": ViewGroup(count=config.crops, size=8, crop_area_max=0.4),
        }

    def __init__(self, config: Any, make: Parts, images: int) -> None:
        super().__init__()
        self.config = config
        self.encoder = make.encoder()

    def embed(self, batch: Batch) -> Tensors:
        return {
            name: self.encoder(views.flatten(0, 1)).unflatten(0, views.shape[:2]) for name, views in batch.views.items()
        }

    def loss(self, embeddings: Tensors, targets: Tensors, batch: Batch) -> Tensors:
        centre = embeddings["large"].mean(1, keepdim=True)
        spread = (embeddings["small"] - centre).square().mean()
        return {"loss": spread * self.config.scale, "spread": spread.detach()}
