"""What an evaluation found: one JSON file each, and a table."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from simclr_dist.evaluation.saved_training import Accuracies
from simclr_dist.storage.atomic import write_atomically

FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class ResultRow:
    """One line of the table."""

    name: str
    """Such as ``linear probe, pretrained``."""
    labels: str
    """How many were used: ``10 a class``, ``1 %``, ``all``."""
    images: int
    """With labels, that were learned from."""
    top1: tuple[float, ...]
    """Share of the test images, one for each split."""
    top5: tuple[float, ...] = ()
    """Likewise; empty with five classes or fewer."""
    balanced: tuple[float, ...] = ()
    """The mean over the classes of the share that is right, one for each split."""
    subsets_sha256: tuple[str, ...]
    """Of the chosen training images' indices (64-bit little-endian), one for each split."""
    details: dict[str, Any] = field(default_factory=dict)
    """What the method found on the way, such as the L2 chosen."""

    @property
    def mean(self) -> float:
        return float(np.mean(self.top1))

    @property
    def std(self) -> float:
        """Over the splits, with n - 1; 0 for one."""
        return deviation(self.top1)

    def as_dict(self) -> dict[str, Any]:
        top5 = {"mean_top5": float(np.mean(self.top5))} if self.top5 else {}
        balanced = {"mean_balanced": float(np.mean(self.balanced))} if self.balanced else {}
        return {**asdict(self), "mean": self.mean, "std": self.std, **top5, **balanced}


@dataclass(frozen=True, kw_only=True)
class Found:
    """What every method's result says, but its rows."""

    method: str
    steps_done: int
    """Of pretraining."""
    encoder_sha256: str
    """Of the weights and running statistics that were evaluated."""
    data: dict[str, Any]
    """source, image_size, classes, and count and fingerprint of the train and test images."""
    own_images: bool
    """Whether these are the images of the run's recipe."""
    protocol: dict[str, Any]
    """Everything that was chosen: with it, the encoder and the data the result repeats to the digit."""

    def as_dict(self) -> dict[str, Any]:
        return {"format": FORMAT, **asdict(self)}

    def file_name(self) -> str:
        """The same for the same method, step, encoder, data and protocol."""
        facts = json.dumps([self.method, self.encoder_sha256, self.data, self.protocol], sort_keys=True)
        return f"evaluation_step_{self.steps_done:09d}_{self.method}_{hashlib.sha256(facts.encode()).hexdigest()[:8]}"

    def write(self, folder: Path) -> Path:
        """Write it into a folder; a file of that name with other numbers is left, and this one gets the next number."""
        return write_numbers(folder, self.file_name(), self.as_dict())


@dataclass(frozen=True, kw_only=True)
class Result(Found):
    """What one method found on one data set."""

    unequal_classes: bool = False
    """Whether some class has many more test images than another."""
    rows: tuple[ResultRow, ...]

    def as_dict(self) -> dict[str, Any]:
        return {**super().as_dict(), "rows": [row.as_dict() for row in self.rows]}

    def table(self) -> str:
        """One line a row, in percent of the test images.

        ``std`` is over the splits; without several, ``+-`` is the standard error of a share of so many test images.
        Where the classes are unequal the balanced accuracy stands beside top-1.
        """
        width = max(len(row.name) for row in self.rows) + 2
        several, five = any(len(row.top1) > 1 for row in self.rows), any(row.top5 for row in self.rows)
        uneven = self.unequal_classes and any(row.balanced for row in self.rows)
        lines = [
            f"{'':<{width}}{'labels':>12}{'images':>9}{'top-1':>8}{'std' if several else '+-':>7}"
            + (f"{'balanced':>10}" if uneven else "")
            + (f"{'top-5':>8}" if five else "")
            + (f"{'gain':>8}" if any("gain" in row.details for row in self.rows) else "")
        ]
        for row in self.rows:
            lines.append(
                f"{row.name:<{width}}{row.labels:>12}{row.images:>9}{100 * row.mean:>8.2f}"
                + f"{100 * (row.std if several else self._standard_error(row)):>7.2f}"
                + (f"{100 * np.mean(row.balanced):>10.2f}" if uneven else "")
                + (f"{100 * np.mean(row.top5):>8.2f}" if row.top5 else "")
                + (f"{100 * row.details['gain']:>+8.2f}" if "gain" in row.details else "")
            )
        return "\n".join(lines)

    def _standard_error(self, row: ResultRow) -> float:
        return float(np.sqrt(row.mean * (1 - row.mean) / self.data["test_images"]))


def deviation(values: Sequence[float]) -> float:
    """The standard deviation (n - 1); 0 of one value."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def accuracy_columns(splits: Sequence[Accuracies]) -> dict[str, tuple[float, ...]]:
    """The accuracies of each split as the columns of a :class:`ResultRow`."""
    return {
        "top1": tuple(top1 for top1, _, _ in splits),
        "top5": tuple(top5 for _, top5, _ in splits if top5 is not None),
        "balanced": tuple(balanced for _, _, balanced in splits),
    }


def write_numbers(folder: Path, name: str, numbers: dict[str, Any]) -> Path:
    """Write ``folder/name.json``, or ``name_2.json`` and so on where other numbers stand under that name already."""
    content = json.dumps(numbers, indent=1).encode()
    path, number = folder / f"{name}.json", 1
    while path.exists() and path.read_bytes() != content:
        number += 1
        path = folder / f"{name}_{number}.json"
    write_atomically(path, content)
    return path
