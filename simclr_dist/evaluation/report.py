"""The label curve as a table and as JSON; ``simclr-dist report`` draws it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from simclr_dist.evaluation.context import EvaluationContext
from simclr_dist.evaluation.label_curve import CLASSIFIERS, Point
from simclr_dist.evaluation.results import write_numbers


def table(points: list[Point], *, balanced: bool = False) -> str:
    """One line a kind of features and classifier, one column a number of labels.

    Accuracy in percent, mean and standard deviation (n - 1) of the splits; with ``balanced`` a second table of the
    balanced accuracy.
    """
    shown = _table(points, lambda point: point.accuracies, "labels a class")
    if balanced:
        shown += "\n" + _table(points, lambda point: point.balanced, "balanced accuracy")
    return shown


def _table(points: list[Point], values: Callable[[Point], tuple[float, ...]], title: str) -> str:
    counts = sorted({point.labels_per_class for point in points})
    lines = [f"{title:<26}" + "".join(f"{count:>13}" for count in counts)]
    for classifier in [name for name in CLASSIFIERS if any(point.classifier == name for point in points)]:
        for features in dict.fromkeys(point.features for point in points):
            row = {p.labels_per_class: p for p in points if (p.features, p.classifier) == (features, classifier)}
            cells = "".join(_cell(values(row[count])) for count in counts)
            lines.append(f"{classifier + ', ' + features:<26}{cells}")
    return "\n".join(lines)


def _cell(accuracies: tuple[float, ...]) -> str:
    spread = f" +-{100 * np.std(accuracies, ddof=1):>4.1f}" if len(accuracies) > 1 else ""
    return f"{100 * np.mean(accuracies):.1f}{spread}".rjust(13)


def write_points(context: EvaluationContext, run_dir: Path, points: list[Point]) -> Path:
    """Write evaluation_step_N.json into the run folder and return its path.

    Other points than those of an evaluation before (of other images, other numbers of labels) get the next number.
    """
    content = {
        "steps_done": context.steps_done,
        "encoder_sha256": context.encoder_sha256,
        "data": context.data_facts(context.classes),
        "own_images": context.own_images,
        "protocol": {"splits": len(points[0].accuracies)},
        "points": [point.as_dict() for point in points],
    }
    return write_numbers(run_dir, f"evaluation_step_{context.steps_done:09d}", content)
