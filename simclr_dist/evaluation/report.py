"""The label curve as a table, as JSON and as a picture beside the training curve and the views."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

from simclr_dist.config import Recipe
from simclr_dist.config.registry import method_class
from simclr_dist.data.preview import contact_sheet
from simclr_dist.data.sources.named import open_source
from simclr_dist.evaluation.label_curve import CLASSIFIERS, Point
from simclr_dist.evaluation.results import write_numbers
from simclr_dist.run.metrics_log import read_metrics

_COLORS = {"pretrained": "#1b6ca8", "untrained": "#d98324", "raw pixels": "#7a7a7a"}


def table(points: list[Point]) -> str:
    """One line a kind of features and classifier, one column a number of labels; mean accuracy in percent."""
    counts = sorted({point.labels_per_class for point in points})
    lines = [f"{'labels a class':<28}" + "".join(f"{count:>8}" for count in counts)]
    for classifier in CLASSIFIERS:
        for features in _COLORS:
            row = {p.labels_per_class: p for p in points if (p.features, p.classifier) == (features, classifier)}
            cells = "".join(f"{100 * row[count].mean:>7.1f} " for count in counts)
            lines.append(f"{classifier + ', ' + features:<28}{cells}")
    return "\n".join(lines)


def write_report(run_dir: Path, recipe: Recipe, steps_done: int, points: list[Point]) -> list[Path]:
    """Write evaluation_step_N.json and report_step_N.png into the run folder and return their paths.

    Other points than those of an evaluation before (of other images, other numbers of labels) get the next number.
    """
    content = {"steps_done": steps_done, "points": [{**asdict(point), "mean": point.mean} for point in points]}
    numbers = write_numbers(run_dir, f"evaluation_step_{steps_done:09d}", content)
    picture = run_dir / f"{numbers.stem.replace('evaluation', 'report')}.png"
    figure = _draw(run_dir, recipe, points)
    figure.savefig(picture, dpi=110)
    pyplot.close(figure)
    return [numbers, picture]


def _draw(run_dir: Path, recipe: Recipe, points: list[Point]) -> Any:
    figure, axes = pyplot.subplots(2, 2, figsize=(12, 8.5), layout="constrained")
    metrics = read_metrics(run_dir / "metrics.jsonl")
    steps = [line["step"] for line in metrics]
    loss, top1 = axes[0]
    loss.plot(steps, [line["loss"] for line in metrics], color=_COLORS["pretrained"], linewidth=1)
    loss.set(title="Loss", xlabel="step")
    described = method_class(recipe.method.name).METRICS
    for name, metric in described.items():
        if metric.role == "headline":
            values = [metric.factor * line[name] for line in metrics]
            top1.plot(steps, values, color=_COLORS["pretrained"], linewidth=1)
            top1.set(title=f"{metric.title}: {metric.text}", xlabel="step", ylabel=metric.unit)
            top1.set_ylim(bottom=0 if metric.from_zero else None)
    curve, views = axes[1]
    for (features, color), (classifier, style) in [
        (f, c) for f in _COLORS.items() for c in zip(CLASSIFIERS, "-:", strict=True)
    ]:
        row = [p for p in points if (p.features, p.classifier) == (features, classifier)]
        curve.plot(
            [p.labels_per_class for p in row], [100 * p.mean for p in row],
            color=color, linestyle=style, marker="o", markersize=4, label=f"{features}, {classifier}",
        )  # fmt: skip
    counts = sorted({p.labels_per_class for p in points})
    curve.set(title="Held-out accuracy", xlabel="labels a class", ylabel="%", xscale="log")
    curve.set_xticks(counts, [str(count) for count in counts])
    curve.minorticks_off()
    curve.legend(fontsize=8, loc="lower right")
    for axis in (loss, top1, curve):
        axis.grid(alpha=0.25)
    views.imshow(contact_sheet(open_source(recipe.data), recipe, images=6).permute(1, 2, 0).numpy())
    views.set(title="Images, and their views")
    views.axis("off")
    return figure
