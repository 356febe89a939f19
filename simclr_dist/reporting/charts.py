"""Charts as inline SVG: lines with values under the pointer, scattered points, a matrix."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simclr_dist.reporting.marks import Mark
from simclr_dist.reporting.markup import Html, joined, tag

POINTS = 1000
_WIDTH, _HEIGHT = 380, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 372, 10, 192
# Of the columns of a matrix: as many short names stand level; a letter is so wide, at 11 px.
_LEVEL_NAMES, _LETTER, _MOST_LETTERS = 10, 6.5, 14

Point = tuple[float, float | None]


@dataclass(frozen=True)
class Series:
    """A line; a value that is None leaves a gap."""

    name: str
    points: Sequence[Point]
    color: int = 0
    dashed: bool = False


def thin(points: Sequence[Point], most: int = POINTS) -> list[Point]:
    """At most about so many points: of each stretch the lowest, the highest and one gap, in order; both ends stay."""
    if len(points) <= most:
        return list(points)
    kept = {0, len(points) - 1}
    for part in np.array_split(np.arange(len(points)), max(1, most // 3)):
        with_value = [(points[i][1], int(i)) for i in part if points[i][1] is not None]
        kept |= {i for _, i in (min(with_value), max(with_value))} if with_value else set()
        kept |= {int(next(i for i in part if points[i][1] is None))} if len(with_value) < len(part) else set()
    return [points[i] for i in sorted(kept)]


def line_chart(
    title: str,
    series: Sequence[Series],
    *,
    unit: str = "",
    text: str = "",
    x_name: str = "step",
    log_x: bool = False,
    zero: bool = False,
    marks: Sequence[Mark] = (),
) -> Html:
    """Lines over a common axis; ``text``: what is shown, behind title and unit; ``zero``: the axis begins at 0."""
    headline = title + (f", {unit}" if unit else "") + (f": {text}" if text else "")
    thinned = [Series(s.name, thin(s.points), s.color, s.dashed) for s in series]
    values = [y for s in thinned for _, y in s.points if y is not None]
    if not values:
        return _figure(headline, tag("p", "No value was recorded.", class_="missing"))
    across = [x for s in thinned for x, _ in s.points]
    x_low, x_high = min(across), max(across)
    marks = [mark for mark in marks if x_low <= mark.x <= x_high]
    values += [value for mark in marks for value in (mark.low, mark.high)]
    y_ticks = ticks(0 if zero else min(values), max(values))
    y_low, y_high = y_ticks[0], y_ticks[-1]
    scale = math.log if log_x else float
    span = (scale(x_high) - scale(x_low)) or 1.0

    def point_of(x: float, y: float) -> tuple[float, float]:
        return (
            _LEFT + (scale(x) - scale(x_low)) / span * (_RIGHT - _LEFT),
            _BOTTOM - (y - y_low) / (y_high - y_low) * (_BOTTOM - _TOP),
        )

    x_ticks = sorted(set(across)) if log_x else [t for t in ticks(x_low, x_high, 5) if x_low <= t <= x_high]
    frame = [
        *(_grid_line(point_of(x_low, y)[1], _compact(y)) for y in y_ticks),
        *(_x_label(point_of(x, y_low)[0], _compact(x)) for x in x_ticks),
        _x_label(_RIGHT, x_name, y=_HEIGHT - 2, anchor="end"),
    ]
    shapes = [mark.bar(point_of(mark.x, mark.low), point_of(mark.x, mark.high)) for mark in marks]
    shapes += [_shape(s, [(point_of(x, y) if y is not None else None) for x, y in s.points]) for s in thinned]
    data = [
        {
            "n": s.name,
            "c": s.color % 10,
            "p": [[x, float(f"{y:.5g}"), *(round(v, 1) for v in point_of(x, y))] for x, y in s.points if y is not None],
        }
        for s in thinned
    ]
    picture = tag(
        "svg",
        tag("title", title), frame, shapes, tag("g", class_="cursor"),
        viewBox=f"0 0 {_WIDTH} {_HEIGHT}", class_="chart lines", role="img",
        data_series=data, data_x=x_name, data_unit=unit,
    )  # fmt: skip
    names = legend([(s.name, f"c{s.color % 10}", s.dashed) for s in series]) if len(series) > 1 else None
    return _figure(headline, picture, names)


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers that enclose low..high."""
    if high - low <= max(1e-9 * max(abs(low), abs(high)), 1e-300):  # as one value: no step would part them
        low, high = (low - abs(low) * 0.1 - 1e-9, high + abs(high) * 0.1 + 1e-9) if low else (0.0, 1.0)
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{n * step:.10g}") for n in range(first, last + 1)]


def scatter(positions: NDArray[np.float32], labels: Sequence[str], colors: Sequence[str], thumbnails: str) -> Html:
    """Points in a square; under the pointer the label and, from the sprite with the id ``thumbnails``, the picture."""
    low, high = positions.min(0), positions.max(0)
    scaled = 8 + (positions - low) / np.maximum(high - low, 1e-12) * 384
    dots = [
        tag("circle", cx=round(float(x), 1), cy=round(400 - float(y), 1), r=3.2, data_l=label, style=f"fill:{color}")
        for (x, y), label, color in zip(scaled, labels, colors, strict=True)
    ]
    return tag(
        "svg", tag("title", "Map of the features"), dots,
        viewBox="0 0 400 400", class_="chart map", role="img", data_sprite=thumbnails,
    )  # fmt: skip


def matrix(counts: NDArray[np.int64], classes: Sequence[str]) -> Html:
    """How many of each class (row) were taken for each (column); the shade is the share of the row."""
    n = len(classes)
    upright = n > _LEVEL_NAMES or max(map(len, classes)) * _LETTER > 360 / n
    room = round(min(max(64, max(map(len, classes)) * _LETTER + 8), _MOST_LETTERS * _LETTER + 8))
    cell, left, top = 360 / n, room, room if upright else 22
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    parts: list[Html] = []
    for row in range(n):
        name, middle = _short(classes[row], _MOST_LETTERS), left + (row + 0.5) * cell
        parts.append(_text(left - 5, top + (row + 0.65) * cell, name, "end"))
        if upright:
            at, above = round(middle + 4, 1), top - 5
            turned = f"rotate(-90 {at} {above})"
            parts.append(tag("text", name, x=at, y=above, text_anchor="start", transform=turned))
        else:
            parts.append(_text(middle, top - 6, name, "middle"))
        for column in range(n):
            share, x, y = float(shares[row, column]), left + column * cell, top + row * cell
            text = f"{classes[row]} taken for {classes[column]}: {counts[row, column]} ({100 * share:.1f} %)"
            rest = {"x": round(x, 2), "y": round(y, 2), "width": round(cell - 1, 2), "height": round(cell - 1, 2)}
            parts.append(tag("rect", tag("title", text), class_="cell", style=f"--share:{share:.3f}", **rest))
            if counts[row, column] and n <= 12:
                shade = "on" if share > 0.5 else "off"
                parts.append(_text(x + cell / 2, y + cell / 2 + 4, str(counts[row, column]), "middle", shade))
    size, kind = f"0 0 {left + 364} {top + 364}", "chart matrix" + " small" * (n > 20)
    return tag("svg", tag("title", "Confusion matrix"), parts, viewBox=size, class_=kind, role="img")


def legend(entries: Sequence[tuple[str, str, bool]]) -> Html:
    """(name, class of its colour or a CSS colour, dashed) side by side."""
    items = []
    for name, color, dashed in entries:
        known = color[0] == "c" and color[1:].isdigit()
        style = f"border-color:{f'var(--{color})' if known else color}" + (";border-top-style:dashed" if dashed else "")
        items.append(tag("span", tag("i", style=style), name, class_="key"))
    return tag("div", items, class_="legend")


def _figure(title: str, *content: Html | None) -> Html:
    return tag("figure", tag("figcaption", title), *content)


def _shape(series: Series, points: Sequence[tuple[float, float] | None]) -> Html:
    path, pen_down = [], False
    for spot in points:
        if spot is not None:
            path.append(f"{'L' if pen_down else 'M'}{spot[0]:.1f} {spot[1]:.1f}")
        pen_down = spot is not None
    line = tag("path", d="".join(path), class_=f"line c{series.color % 10}" + (" dashed" if series.dashed else ""))
    if len(points) > 12:
        return line
    spots = [spot for spot in points if spot is not None]
    dots = [tag("circle", cx=round(x, 1), cy=round(y, 1), r=3, class_=f"dot c{series.color % 10}") for x, y in spots]
    return joined(line, dots)


def _grid_line(y: float, text: str) -> Html:
    line = tag("line", x1=_LEFT, x2=_RIGHT, y1=round(y, 1), y2=round(y, 1), class_="grid")
    return joined(line, _text(_LEFT - 5, y + 4, text, "end"))


def _x_label(x: float, text: str, *, y: float = _BOTTOM + 15, anchor: str = "middle") -> Html:
    return _text(x, y, text, anchor)


def _compact(value: float) -> str:
    """A value at an axis: 0.2, 40k, 1.2M, 3e-05."""
    for limit, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= limit:
            return f"{value / (1e3 if letter == 'k' else limit):.4g}{letter}"
    return f"{value:.4g}"


def _text(x: float, y: float, text: str, anchor: str, class_: str | None = None) -> Html:
    return tag("text", text, x=round(x, 1), y=round(y, 1), text_anchor=anchor, class_=class_)


def _short(name: str, most: int = 9) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"
