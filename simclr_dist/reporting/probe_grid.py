"""What ``evaluate RUN probe --grid`` found: a heat map of its probes, and the best one."""

from collections.abc import Sequence
from typing import Any

from simclr_dist.reporting import Missing
from simclr_dist.reporting.facts import Facts
from simclr_dist.reporting.markup import Html, joined, tag

_CELL, _HEIGHT, _TOP, _LETTER = 50, 26, 22, 6.5
_SHADED = 0.1
"""How far below the best accuracy a cell is as light as any."""


def has_grid(run: Facts) -> bool:
    """Whether there is a result to show."""
    return any(_is_grid(content) for _, content in run.evaluations)


def grids(run: Facts) -> Html:
    """A heat map and a sentence for each result.

    Raises:
        Missing: a file is not of this form.
    """
    parts = []
    for name, content in run.evaluations:
        if _is_grid(content):
            try:
                parts.append(_shown(name, content))
            except (KeyError, TypeError, ValueError, IndexError) as error:
                raise Missing(f"{name} is not of the form that evaluate writes; evaluate again.") from error
    return joined(*parts)


def _is_grid(content: dict[str, Any]) -> bool:
    protocol = content.get("protocol")
    return isinstance(protocol, dict) and bool(protocol.get("grid"))


def _shown(file: str, content: dict[str, Any]) -> Html:
    row = content["rows"][0]
    found = row["details"]
    said = (
        f"Chosen on {found['held_out_images']} training images that no probe learned from: {found['input']}, learning "
        f"rate {found['learning_rate']:g} for 256 images. It has {100 * row['mean']:.2f} % of the test images right. A "
        "cell is the lighter the farther below the best; - has diverged."
    )
    best = found["inputs"].index(found["input"]), found["learning_rates"].index(found["learning_rate"])
    title = f"Accuracy of the probes on held-out training images after {content['steps_done']} steps, % ({file})"
    picture = heat_map(found["held_out_top1"], found["inputs"], [f"{rate:g}" for rate in found["learning_rates"]], best)
    return tag("figure", tag("figcaption", title), picture, tag("p", said, class_="soft"))


def heat_map(
    values: Sequence[Sequence[float | None]], rows: Sequence[str], columns: Sequence[str], best: tuple[int, int]
) -> Html:
    """Shares (rows x columns) in percent, shaded by how near they are to that of ``best``, which has a frame."""
    left = round(max(map(len, rows)) * _LETTER) + 8
    top = values[best[0]][best[1]] or 0.0
    parts = [_text(left + (number + 0.5) * _CELL, _TOP - 7, name, "middle") for number, name in enumerate(columns)]
    for row, (name, line) in enumerate(zip(rows, values, strict=True)):
        y = _TOP + row * _HEIGHT
        parts.append(_text(left - 6, y + _HEIGHT / 2 + 3, name, "end"))
        for column, value in zip(range(len(columns)), line, strict=True):
            x = left + column * _CELL
            share = 0.0 if value is None else max(0.0, min(1.0, 1 - (top - value) / _SHADED))
            frame = ";stroke:var(--ink);stroke-width:2" if (row, column) == best else ""
            number = "-" if value is None else f"{100 * value:.1f}"
            told = tag("title", f"{name}, learning rate {columns[column]}: {number} %")
            parts.append(
                tag(
                    "rect", told, class_="cell", style=f"--share:{share:.3f}{frame}",
                    x=x + 1, y=y + 1, width=_CELL - 2, height=_HEIGHT - 2,
                )
            )  # fmt: skip
            parts.append(_text(x + _CELL / 2, y + _HEIGHT / 2 + 4, number, "middle", "on" if share > 0.5 else "off"))
    size = f"0 0 {left + len(columns) * _CELL + 2} {_TOP + len(rows) * _HEIGHT + 2}"
    return tag("svg", tag("title", "Grid of probes"), parts, viewBox=size, class_="chart", role="img")


def _text(x: float, y: float, text: str, anchor: str, class_: str | None = None) -> Html:
    return tag("text", text, x=round(x, 1), y=round(y, 1), text_anchor=anchor, class_=class_)
