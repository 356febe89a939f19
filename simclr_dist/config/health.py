"""The third section of a config: what a run of this recipe is expected to look like.

Nothing that is computed depends on it, and a run that goes on may have another one.
"""

from dataclasses import dataclass, field


@dataclass(kw_only=True)
class Bands:
    bands: dict[float, list[float]] = field(default_factory=dict)
    """Percent of the run -> [lowest, highest] in %, of the metric's mean over the last epoch up to there; a run outside
    warns."""
    source: str = ""
    """Who published or measured the bands, on what, and who chose their width. There are no bands without it."""
    unpublished: list[float] = field(default_factory=list, metadata={"percents": True})
    """Percents of the run for which no value is known, said instead of inventing a band; the run tells them once."""


@dataclass(kw_only=True)
class Health:
    contrastive_top1: Bands = field(default_factory=Bands)
    online_knn_top1: Bands = field(default_factory=Bands)
    online_linear_top1: Bands = field(default_factory=Bands)

    def of(self, metric: str) -> Bands:
        """The bands of a metric of metrics.jsonl."""
        bands: Bands = getattr(self, metric)
        return bands

    def check(self) -> None:
        """Refuse bands that nobody answers for, and those that contradict ``unpublished``.

        Raises:
            ValueError: naming the keys and the cure.
        """
        for metric in METRICS:
            own = self.of(metric)
            if own.bands and not own.source.strip():
                raise ValueError(
                    f"health.{metric}.source: the bands of {metric} need one; say who published or measured them"
                )
            if both := [f"{percent:g}" for percent in own.unpublished if percent in own.bands]:
                raise ValueError(
                    f"health.{metric}.unpublished: {', '.join(both)} has a band in health.{metric}.bands; "
                    "remove the one or the other"
                )


METRICS = tuple(Health.__dataclass_fields__)
