"""The third section of a config: what a run of this recipe is expected to look like.

Nothing that is computed depends on it, and a run that resumes may have another one.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from simclr_dist.config.metric import Metric


@dataclass(kw_only=True)
class Bands:
    bands: dict[float, list[float]] = field(default_factory=dict)
    """Percent of the run -> [lowest, highest] of the metric's mean over the last epoch up to there, in % where the
    metric is a share; a run outside warns."""
    source: str = ""
    """Who published or measured the bands, on what, and who chose their width. There are no bands without it."""
    unpublished: list[float] = field(default_factory=list, metadata={"percents": True})
    """Percents of the run for which no value is known, said instead of inventing a band; the run tells them once."""


def check_bands(health: Mapping[str, Bands], metrics: Mapping[str, Metric]) -> None:
    """Refuse bands that nobody answers for, those that contradict ``unpublished``, and those that cannot be.

    Args:
        health: metric -> its bands, of metrics that may have some.
        metrics: name -> what it is.

    Raises:
        ValueError: naming the keys and the cure.
    """
    for metric, own in health.items():
        for percent, (low, high) in own.bands.items():
            if metrics[metric].unit == "%" and (low < 0 or high > 100):
                raise ValueError(
                    f"health.{metric}.bands: at {percent:g} % stands [{low:g}, {high:g}]; an accuracy is 0 to 100 %"
                )
        if own.bands and not own.source.strip():
            raise ValueError(
                f"health.{metric}.source: the bands of {metric} need one; say who published or measured them"
            )
        if both := [f"{percent:g}" for percent in own.unpublished if percent in own.bands]:
            raise ValueError(
                f"health.{metric}.unpublished: {', '.join(both)} has a band in health.{metric}.bands; "
                "remove the one or the other"
            )
