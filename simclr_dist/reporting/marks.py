"""Marks on a chart: a range of values that is expected at one point of an axis."""

from dataclasses import dataclass

from simclr_dist.reporting.markup import Html, tag


@dataclass(frozen=True)
class Mark:
    """An expected range, and whether the line kept within it; ``text`` comes up under the pointer."""

    x: float
    low: float
    high: float
    inside: bool
    text: str

    def bar(self, low: tuple[float, float], high: tuple[float, float]) -> Html:
        """The mark between two points of the chart, (x, y) each."""
        size = {"width": 6, "height": round(max(low[1] - high[1], 1), 1)}
        kind = "band" if self.inside else "band out"
        return tag("rect", tag("title", self.text), x=round(low[0] - 3, 1), y=round(high[1], 1), class_=kind, **size)
