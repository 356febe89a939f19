"""The plan as a picture: memory and time against the number of GPUs."""

from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

from simclr_dist.errors import UserError, first_line
from simclr_dist.planning.memory import Variant
from simclr_dist.planning.plan import Plan, Row
from simclr_dist.storage.atomic import write_atomically
from simclr_dist.storage.own_output import SOFTWARE

_BLUE, _ORANGE, _GREY, _RED = "#1b6ca8", "#d98324", "#7a7a7a", "#b3362b"
_MARKERS = "os^DvP"


def draw(plan: Plan, path: Path) -> None:
    """Write the PNG.

    Raises:
        UserError: it cannot be written.
    """
    timed = bool(plan.assumed.flops_per_second)
    figure, axes = pyplot.subplots(1, 1 + timed, figsize=(13 if timed else 7, 5), layout="constrained", squeeze=False)
    recipe = plan.config.recipe
    figure.suptitle(
        f"Predicted: {recipe.encoder.name} at {recipe.data.image_size} px, global batch {recipe.global_batch_images}, "
        f"{plan.config.machine.precision}, GPUs of {plan.gpu_memory_bytes / 1e9:.0f} GB"
    )
    _draw_memory(axes[0, 0], plan)
    if timed:
        _draw_time(axes[0, 1], plan)
    counts = [row.gpus for row in plan.rows]
    for axis in axes[0]:
        axis.set_xscale("log", base=2)
        axis.set_xticks(counts, [str(count) for count in counts], rotation=45 if len(counts) > 9 else 0)
        axis.set_xlabel("GPUs")
        axis.grid(alpha=0.25)
        axis.axvline(plan.suggested.gpus, color=_GREY, linewidth=6, alpha=0.2, zorder=0)
    kind = path.suffix.lower().removeprefix(".") or "png"
    metadata = {"Software": SOFTWARE} if kind == "png" else None
    try:
        write_atomically(path, lambda file: figure.savefig(file, format=kind, dpi=110, metadata=metadata))
    except (OSError, ValueError) as error:
        raise UserError(f"--out: cannot write {path}: {first_line(error)}") from error
    finally:
        pyplot.close(figure)


def _draw_memory(axis: Any, plan: Plan) -> None:
    counts = [row.gpus for row in plan.rows]
    plain = [plan.memory.peak_bytes(row.images, Variant()) / 1e9 for row in plan.rows]
    axis.plot(counts, plain, color=_GREY, linestyle=":", marker=".", label="without recomputation or chunks")
    # A marker for each way, told of in the legend: beside the points the words would lie on their neighbours.
    ways = sorted({row.variant for row in plan.rows if row.fits}, key=lambda way: (way != Variant(), str(way)))
    for marker, way in zip(cycle(_MARKERS), ways, strict=False):
        rows = [row for row in plan.rows if row.fits and row.variant == way]
        _draw_peaks(axis, rows, marker, _BLUE, "fits" if way == Variant() else f"fits, {way}")
    if rows := [row for row in plan.rows if not row.fits]:
        _draw_peaks(axis, rows, "X", _RED, "does not fit")
    axis.axhline(plan.usable_bytes / 1e9, color=_ORANGE, label=f"for tensors: {plan.usable_bytes / 1e9:.3g} GB")
    axis.set_yscale("log")
    axis.set(title="Peak memory of a GPU", ylabel="GB")
    axis.yaxis.set_major_formatter("{x:g}")
    axis.legend(fontsize=9)


def _draw_peaks(axis: Any, rows: Sequence[Row], marker: str, color: str, label: str) -> None:
    peaks = [row.peak_bytes / 1e9 for row in rows]
    axis.plot([row.gpus for row in rows], peaks, marker, color=color, markersize=8, label=label)


def _draw_time(axis: Any, plan: Plan) -> None:
    counts = [row.gpus for row in plan.rows]
    compute = [row.hours * (row.compute_seconds or 0.0) / row.step_seconds for row in plan.rows]
    for row in plan.rows:
        color = _BLUE if row.fits else _RED
        axis.plot(row.gpus, row.hours, "o", color=color, markersize=8)
        axis.annotate(
            f"{100 * row.communication_share:.0f} %", (row.gpus, row.hours), (0, 9), textcoords="offset points",
            ha="center", fontsize=9, color=_ORANGE,
        )  # fmt: skip
    axis.plot(counts, [row.hours for row in plan.rows], color=_BLUE, label="whole run; % of it communication")
    axis.plot(counts, compute, color=_GREY, linestyle=":", label="computation alone")
    axis.set_yscale("log")
    axis.margins(y=0.12)
    axis.set(title="Time, from the assumed rates", ylabel="hours")
    axis.yaxis.set_major_formatter("{x:g}")
    axis.legend(fontsize=9)
