"""The label curve as a table and as JSON; ``simclr-dist report`` draws it."""

from dataclasses import asdict
from pathlib import Path

from simclr_dist.evaluation.label_curve import CLASSIFIERS, Point
from simclr_dist.evaluation.results import write_numbers


def table(points: list[Point]) -> str:
    """One line a kind of features and classifier, one column a number of labels; mean accuracy in percent."""
    counts = sorted({point.labels_per_class for point in points})
    lines = [f"{'labels a class':<28}" + "".join(f"{count:>8}" for count in counts)]
    for classifier in CLASSIFIERS:
        for features in dict.fromkeys(point.features for point in points):
            row = {p.labels_per_class: p for p in points if (p.features, p.classifier) == (features, classifier)}
            cells = "".join(f"{100 * row[count].mean:>7.1f} " for count in counts)
            lines.append(f"{classifier + ', ' + features:<28}{cells}")
    return "\n".join(lines)


def write_points(run_dir: Path, steps_done: int, points: list[Point]) -> Path:
    """Write evaluation_step_N.json into the run folder and return its path.

    Other points than those of an evaluation before (of other images, other numbers of labels) get the next number.
    """
    content = {"steps_done": steps_done, "points": [{**asdict(point), "mean": point.mean} for point in points]}
    return write_numbers(run_dir, f"evaluation_step_{steps_done:09d}", content)
