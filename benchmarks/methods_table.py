"""The table of benchmarks/methods_on_images.py, from what its runs have left in a folder."""

import json
import statistics
from pathlib import Path
from typing import Any

REFERENCES = ("raw pixels", "untrained")


def write_table(out: Path) -> None:
    """``table.md``, and ``table.json`` with all that stands behind it."""
    rows = [json.loads(file.read_text()) for file in sorted((out / "rows").glob("*.json"))]
    steps = json.loads((out / "steps.json").read_text()) if (out / "steps.json").exists() else {}
    settings = json.loads((out / "settings.json").read_text())
    (out / "table.json").write_text(json.dumps({"settings": settings, "steps": steps, "rows": rows}, indent=1))
    (out / "table.md").write_text(_markdown(rows, steps, settings))


def _markdown(rows: list[dict[str, Any]], steps: dict[str, Any], settings: dict[str, Any]) -> str:
    of: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        of.setdefault(row["method"], []).append(row)
    trained = [name for name in of if name not in REFERENCES]
    known = {name: [row for row in of[name] if "error" not in row] for name in of}
    trained.sort(key=lambda name: -max((statistics.mean(row["knn"] for row in known[name]) if known[name] else 0.0, 0)))
    pixels = known.get("raw pixels", [])
    lines = [
        f"{settings['source']}: {settings['images']:,} images, {settings['epochs']} epochs, batch {settings['batch']}, "
        f"{settings['encoder']} of width {settings['width']:g}, {settings['image_size']} px, {settings['precision']}, "
        f"{settings['device']}",
        "",
        "| method | seeds | labels | views | kNN, % | probe, % | RankMe of embeddings | of features | s a step | over "
        "SimCLR's | MB a step |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name in [*(name for name in REFERENCES if name in of), *trained]:
        good, step = known[name], steps.get(name, {})
        if good:
            below = pixels and name not in REFERENCES and _mean(good, "knn") < pixels[0]["knn"]
            labels = "yes" if "labels" in good[0].get("needs", []) else "no"
            cells = [
                name + (" (below raw pixels)" if below else ""), str(len(good)), labels, str(good[0].get("views", "-")),
                _percent(good, "knn"), _percent(good, "probe"), _number(good, "rank_of_embeddings"),
                _number(good, "rank_of_features"), *_of_step(step, steps),
            ]  # fmt: skip
            lines.append(f"| {' | '.join(cells)} |")
        lines += [f"| {name}, seed {row['seed']} | failed: {row['error']} |" for row in of[name] if "error" in row]
    return "\n".join(lines) + "\n"


def _of_step(step: dict[str, Any], steps: dict[str, Any]) -> list[str]:
    """Seconds (the median of the rounds), their ratio to SimCLR's of the same round, megabytes."""
    if "seconds" not in step:
        return ["-", "-", "-"]
    first = steps.get("simclr", {}).get("seconds")
    ratio = statistics.median(a / b for a, b in zip(step["seconds"], first, strict=True)) if first else None
    seconds = f"{statistics.median(step['seconds']):.3f}"
    return [seconds, f"{ratio:.2f}" if ratio else "-", f"{step['memory_bytes'] / 1e6:.0f}"]


def _mean(rows: list[dict[str, Any]], key: str) -> float:
    return statistics.mean(float(row[key]) for row in rows)


def _percent(rows: list[dict[str, Any]], key: str) -> str:
    deviation = f" +- {100 * statistics.stdev(row[key] for row in rows):.2f}" if len(rows) > 1 else ""
    return f"{100 * _mean(rows, key):.2f}{deviation}"


def _number(rows: list[dict[str, Any]], key: str) -> str:
    there = [row for row in rows if row.get(key) is not None]
    return f"{_mean(there, key):.1f}" if there else "-"
