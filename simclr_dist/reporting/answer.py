"""What a reader asks first, in a sentence for each run: how good, is it healthy, how long did it take."""

from collections.abc import Sequence
from typing import Any

from simclr_dist.guards.health_bands import INSIDE, OUTSIDE
from simclr_dist.reporting.curves import label_lines
from simclr_dist.reporting.facts import Facts
from simclr_dist.reporting.markup import Html, number, tag
from simclr_dist.reporting.segmentation import in_words
from simclr_dist.units import show_seconds

_OURS = "pretrained"


def answers(runs: Sequence[Facts]) -> list[Html]:
    """A paragraph for each run."""
    names = [f"{run.name}: " if len(runs) > 1 else "" for run in runs]
    return [tag("p", f"{name}{answer(run)}", class_="answer") for name, run in zip(names, runs, strict=True)]


def answer(run: Facts) -> str:
    """Accuracy beside its baselines, health, and time, as far as they are known."""
    parts = [_accuracy(run), _health(run), _time(run)]
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}."


def _accuracy(run: Facts) -> str:
    """Of the run's own images, the newest evaluation with baselines, with the most labels; by the linear probe where
    there is one. Of several such the one that was written first.

    The best of all would be chosen on the held-out images. Where there is none, mean IoU of a segmentation.
    """
    found: list[tuple[tuple[int, int, int, int, bool], str]] = []
    for _, content in run.evaluations:
        accuracies: dict[tuple[str, int], dict[str, float]] = {}
        for (classifier, features), line in label_lines(content).items():
            for labels, value in line:
                if value is not None:
                    accuracies.setdefault((classifier, int(labels)), {})[features] = value
        for (classifier, labels), by_features in accuracies.items():
            if _OURS in by_features:
                others = [f"{value:.1f} {name}" for name, value in by_features.items() if name != _OURS]
                text = f"{by_features[_OURS]:.1f} % of held-out images right ({classifier}, {labels} labels a class)"
                text += run.whose(content)
                linear = classifier.startswith("linear")
                rank = (run.own_first(content), len(others), _steps(content), labels, linear)
                found.append((rank, f"{text}, beside {', '.join(others)}" if others else f"{text}, without a baseline"))
    if not found:
        return in_words(run) or "Accuracy not known yet (simclr-dist evaluate)"
    return max(found, key=lambda each: each[0])[1]


def _steps(content: dict[str, Any]) -> int:
    steps = content.get("steps_done")
    return steps if type(steps) is int else 0


def _health(run: Facts) -> str:
    bands = run.health["bands"] if run.health else []
    outside = [band for band in bands if band["outcome"] == OUTSIDE]
    checked = sum(band["outcome"] in (INSIDE, OUTSIDE) for band in bands)
    wrong = [f"outside {len(outside)} of {checked} health bands"] * bool(outside)
    wrong += [f"anomalies: {len(run.anomalies)}"] * bool(run.anomalies)
    if wrong:
        return f"not healthy: {', '.join(wrong)}"
    if checked:
        return f"healthy: inside all {checked} health bands that were checked, no anomaly"
    return "no anomaly; no health band was checked"


def _time(run: Facts) -> str:
    seconds = [line.get("step_seconds") for line in run.metrics]
    known = [value for value in seconds if value is not None]
    if not known:
        return "no step is done yet"
    return f"{number(run.steps_done)} steps in {show_seconds(sum(known))}"
