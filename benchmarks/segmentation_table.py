"""The table of benchmarks/segmentation.py, from what its jobs have left in a folder."""

import json
import statistics
from pathlib import Path
from typing import Any

from simclr_dist.storage.atomic import write_atomically

ALONE = "cross_entropy"
NAMES = {
    ALONE: "cross-entropy alone",
    "simclr": "SimCLR, all images",
    "within": "pixel contrast, within",
    "cross": "pixel contrast, cross",
    "unlabelled": "pixel contrast, cross, all images",
}
Rows = list[dict[str, Any]]


def file_name(way: str, images: int | None, seed: int, rate: float) -> str:
    """Of a job's row."""
    return f"{way}_{images or 'all'}_{seed}_{rate:g}.json"


def write_table(out: Path) -> None:
    """``table.md``, and ``table.json`` with all that stands behind it."""
    rows = [json.loads(file.read_text()) for file in sorted((out / "rows").glob("*.json"))]
    settings = json.loads((out / "settings.json").read_text())
    write_atomically(out / "table.json", json.dumps({"settings": settings, "rows": rows}, indent=1).encode())
    write_atomically(out / "table.md", _markdown(rows, settings).encode())


def _markdown(rows: Rows, settings: dict[str, Any]) -> str:
    counts = sorted({row["images"] for row in rows}, key=lambda images: images or float("inf"))
    heads = [f"{images or 'all'} masks" for images in counts]
    lines = [
        f"mean IoU of the test images, %; {settings['encoder']} of width {settings['width']:g}, output stride "
        f"{settings['output_stride']}, {settings['image_size']} px, batch {settings['batch']}, {settings['precision']}",
        f"steps of pixel contrast {settings['pretrain_steps']}, of fine-tuning {settings['steps']}, of cross-entropy "
        f"alone {settings['pretrain_steps'] + settings['steps']}; epochs of SimCLR {settings['simclr_epochs']}",
        "",
        f"| | {' | '.join(heads)} |",
        f"| --- |{' --- |' * len(counts)}",
    ]
    good = [row for row in rows if "error" not in row]
    for way, name in NAMES.items():
        if any(row["way"] == way for row in good):
            lines.append(f"| {name} | {' | '.join(_cell(good, way, images) for images in counts)} |")
    lines += [
        f"\n{NAMES[row['way']]}, {row['images'] or 'all'} masks, seed {row['seed']}: failed: {row['error']}"
        for row in rows
        if "error" in row
    ]
    return "\n".join(lines) + "\n"


def _cell(rows: Rows, way: str, images: int | None) -> str:
    """Mean and deviation over the seeds; the gain over cross-entropy alone, how many seeds these are, the rate."""
    found = _best(rows, way, images)
    if not found:
        return "-"
    values = [100 * row["mean_iou"] for row in found]
    cell = f"{statistics.mean(values):.2f}"
    if len(values) > 1:
        cell += f" +- {statistics.stdev(values):.2f}"
    facts = [f"n {len(values)}", f"rate {found[0]['rate']:g}"]
    if way != ALONE and (alone := _best(rows, ALONE, images)):
        facts.insert(0, f"{statistics.mean(values) - 100 * _mean(alone):+.2f}")
    return f"{cell} ({', '.join(facts)})"


def _best(rows: Rows, way: str, images: int | None) -> Rows:
    """Those of one rate: of most seeds, and among these of the highest mean."""
    of: dict[float, Rows] = {}
    for row in rows:
        if (row["way"], row["images"]) == (way, images):
            of.setdefault(row["rate"], []).append(row)
    return max(of.values(), key=lambda found: (len(found), _mean(found)), default=[])


def _mean(rows: Rows) -> float:
    return statistics.mean(float(row["mean_iou"]) for row in rows)
