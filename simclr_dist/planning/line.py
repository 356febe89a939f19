"""A straight line through predictions."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Line:
    """value = offset + slope * images."""

    offset: float
    slope: float

    def __call__(self, images: float) -> float:
        return self.offset + self.slope * images

    @classmethod
    def fit(cls, points: Sequence[tuple[float, float]]) -> "Line":
        """Least squares through (images, value) points; a single point gives a constant."""
        mean_x = sum(x for x, _ in points) / len(points)
        mean_y = sum(y for _, y in points) / len(points)
        spread = sum((x - mean_x) ** 2 for x, _ in points)
        slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / spread if spread else 0.0
        return cls(mean_y - slope * mean_x, slope)

    def worst(self, points: Sequence[tuple[float, float]]) -> float:
        """Largest relative distance of a point from the line."""
        return max(abs(self(x) - y) / y for x, y in points)
