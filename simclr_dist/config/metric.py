"""What a metric is: its words, its unit, and the part that it plays. Nothing here imports torch."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A number of every step, or of every online evaluation, as consoles, reports and health bands know it."""

    title: str
    """As it stands in a sentence: contrastive top-1."""
    unit: str = ""
    """``%``: the number is a share of 0..1 and is shown in percent. Otherwise the unit itself, or nothing."""
    role: Literal["headline", "collapse", "curve"] = "curve"
    """``headline``: shown beside the loss while a run goes (one a method). ``collapse``: 1 when the embeddings fill
    their space and 0 when they are one point (one a method). ``curve``: a curve like others."""
    band: bool = False
    """Whether ``health`` may say within which bounds it is expected."""
    text: str = ""
    """What it measures, for a reader of its curve."""
    from_zero: bool = False
    """Whether its axis begins at 0."""
    below: str = ""
    """What to look at when it is lower than expected."""
    above: str = ""
    """What to look at when it is higher than expected."""

    @property
    def factor(self) -> float:
        """From the number to what is shown."""
        return 100.0 if self.unit == "%" else 1.0

    def shown(self, value: float) -> str:
        """``28.4 %``, ``0.913``, ``3.1 nats``, ``1,843``."""
        if self.unit == "%":
            return f"{100 * value:.1f} %"
        number = f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
        return f"{number} {self.unit}" if self.unit else number


_VIEWS = "the views (simclr-dist preview), the learning rate and the collapse metric of metrics.jsonl (0: collapse)"
_OTHER = "whether images, classes and recipe are those that the band is of"
ONLINE = {
    "online_knn_top1": Metric(
        title="online kNN top-1", unit="%", band=True, from_zero=True, below=_VIEWS, above=_OTHER,
        text="kNN on held-out training images",
    ),
    "online_linear_top1": Metric(
        title="online linear top-1", unit="%", band=True, from_zero=True, below=_VIEWS, above=_OTHER,
        text="linear head on held-out training images",
    ),
}  # fmt: skip
"""What an evaluation of the encoder during the run gives (machine.evaluate_every_epochs), whatever the method."""

CONTRASTIVE = "contrastive_top1"
"""The headline of methods with negatives: it falls when the embeddings collapse, so nothing else need stand beside."""
RANK_ME = "rank_me"
EVERY_METHOD = {
    RANK_ME: Metric(
        title="RankMe", from_zero=True,
        text="how many directions the embeddings fill: at most their size and the images that it is taken of",
    ),
    **ONLINE,
}  # fmt: skip
"""What every run may tell beside its method's METRICS, not in every step."""
