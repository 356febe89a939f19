"""What a fine-tuning with masks found: its rows, and the table."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from simclr_dist.evaluation.confusion import Counts, class_iou, mean_iou, pixel_accuracy
from simclr_dist.evaluation.results import Found, deviation

_MOST_ROWS = 8


@dataclass(frozen=True, kw_only=True)
class SegmentationRow:
    """One line of the table."""

    name: str
    """Such as ``segmentation, pretrained``."""
    images: int
    """With masks, that were learned from."""
    mean_iou: tuple[float, ...]
    """Over the classes, 0..1, one for each seed."""
    pixel_accuracy: tuple[float, ...]
    """Likewise."""
    class_iou: tuple[tuple[float | None, ...], ...]
    """Of each class, for each seed; None for one that neither masks nor predictions have."""
    confusion: list[list[int]]
    """Pixels of each class (row) taken for each (column), of all seeds together."""
    subset_sha256: str
    """Of the names of the chosen images."""
    details: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, confusions: Sequence[Counts], **known: Any) -> "SegmentationRow":
        """From the confusion of each seed."""
        each = [class_iou(counts) for counts in confusions]
        return cls(
            mean_iou=tuple(mean_iou(counts) for counts in confusions),
            pixel_accuracy=tuple(pixel_accuracy(counts) for counts in confusions),
            class_iou=tuple(tuple(None if math.isnan(value) else float(value) for value in found) for found in each),
            confusion=np.sum(confusions, axis=0).tolist(),
            **known,
        )

    @property
    def mean(self) -> float:
        return float(np.mean(self.mean_iou))

    @property
    def std(self) -> float:
        """Over the seeds, with n - 1; 0 for one."""
        return deviation(self.mean_iou)

    def class_mean(self, number: int) -> float | None:
        """Over the seeds that have the class."""
        values = [found[number] for found in self.class_iou]
        known = [value for value in values if value is not None]
        return float(np.mean(known)) if known else None

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "mean": self.mean, "std": self.std}


@dataclass(frozen=True, kw_only=True)
class SegmentationResult(Found):
    """What fine-tuning found on one set with masks."""

    class_names: list[str]
    """Of the pixels."""
    rows: tuple[SegmentationRow, ...]

    def as_dict(self) -> dict[str, Any]:
        return {**super().as_dict(), "rows": [row.as_dict() for row in self.rows]}

    def table(self) -> str:
        """One line a row, then one line a class, in percent; ``std`` is over the seeds."""
        width = max(len(row.name) for row in self.rows) + 2
        several = any(len(row.mean_iou) > 1 for row in self.rows)
        lines = [
            f"{'':<{width}}{'images':>8}{'mean IoU':>10}{'std' if several else '':>7}{'pixel accuracy':>16}"
            + (f"{'gain':>8}" if any("gain" in row.details for row in self.rows) else "")
        ]
        for row in self.rows:
            spread = f"{100 * row.std:.2f}" if several else ""
            lines.append(
                f"{row.name:<{width}}{row.images:>8}{100 * row.mean:>10.2f}{spread:>7}"
                + f"{100 * float(np.mean(row.pixel_accuracy)):>16.2f}"
                + (f"{100 * row.details['gain']:>+8.2f}" if "gain" in row.details else "")
            )
        return "\n".join([*lines, "", *self._class_lines()])

    def _class_lines(self) -> list[str]:
        """The last rows, which are those of the most images."""
        shown = self.rows[-_MOST_ROWS:]
        width = max(len(name) for name in ["IoU of a class", *self.class_names]) + 2
        heads = [f"{row.images} {'scratch' if 'scratch' in row.name else ''}".strip() for row in shown]
        lines = [f"{'IoU of a class':<{width}}" + "".join(f"{head:>15}" for head in heads)]
        for number, name in enumerate(self.class_names):
            values = [row.class_mean(number) for row in shown]
            cells = "".join(f"{'-' if value is None else f'{100 * value:.2f}':>15}" for value in values)
            lines.append(f"{name:<{width}}{cells}")
        return lines
