"""How well RankMe, alpha-ReQ and LiDAR rank encoders: their rank correlation with a linear probe's accuracy.

    export PYTHONPATH=.
    python benchmarks/label_free_rank.py FOLDER [--config digits_demo] [--steps 660] [--also KEY=VALUE ...]

Twelve encoders: a recipe stopped at six lengths, and six runs of a third of its steps, each with one setting broken.
Every one is pretrained and evaluated by the commands that users type (``evaluate RUN label-free``, ``probe``). What
is done already is not done again, so a killed comparison goes on. ``table.md`` and ``table.json`` stand in FOLDER.
"""

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from same_settings import same_settings
from scipy.stats import kendalltau, spearmanr

LENGTHS = (0.003, 0.012, 0.033, 0.1, 0.33, 1.0)
"""Shares of all steps after which the unbroken recipe is stopped."""
BROKEN = {
    "temperature 10": ("recipe.method.temperature=10",),
    "temperature 0.01": ("recipe.method.temperature=0.01",),
    "rate / 100": ("recipe.optimizer.base_learning_rate=0.12",),
    "whole images, same colours": (
        "recipe.views.crop_area_min=1", "recipe.views.brightness=0", "recipe.views.contrast=0",
    ),
    "crops of 2 to 5 %": ("recipe.views.crop_area_min=0.02", "recipe.views.crop_area_max=0.05"),
    "embeddings of 2 dimensions": ("recipe.method.projection.output_dim=2",),
}  # fmt: skip
"""What is broken -> its keys."""
MEASURES: dict[str, Callable[[dict[str, Any]], float | None]] = {
    "RankMe": lambda row: row["rank_me"],
    "LiDAR": lambda row: row["lidar"],
    "alpha-ReQ, nearer to 1": lambda row: None if row["alpha_req"] is None else -abs(row["alpha_req"] - 1),
}
"""Each so that more should be better."""
DRAWS = 10_000


def command(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "simclr_dist", *words], check=True)


def results(run: Path, method: str) -> dict[str, Any]:
    """What ``evaluate`` wrote; computed where it is not there yet."""
    if not (files := sorted(run.glob(f"evaluation_*_{method}_*.json"))):
        command("evaluate", str(run), method)
        files = sorted(run.glob(f"evaluation_*_{method}_*.json"))
    found: dict[str, Any] = json.loads(files[0].read_text())
    return found


def encoder(folder: Path, config: str, name: str, steps: int, total: int, keys: list[str]) -> dict[str, Any]:
    """Pretrain one, stopped after ``steps`` of ``total``, and evaluate it."""
    run = folder / re.sub(r"\W+", "_", name)
    stop = [] if steps == total else [f"machine.stop_after_steps={steps}"]
    if not (run / "done").exists():
        kept = [f"machine.run_dir={run}", "machine.evaluate_every_epochs=0", "machine.save_every_steps=100000"]
        command("pretrain", config, *keys, *kept, *stop)
        (run / "done").touch()
    label_free = {row["name"]: row for row in results(run, "label-free")["rows"]}
    probe = results(run, "probe")
    return {"name": name, "steps": probe["steps_done"], "probe": probe["rows"][0]["mean"], "rows": label_free}


def correlations(found: list[dict[str, Any]], of: str) -> list[dict[str, Any]]:
    """Spearman's and Kendall's (tau-b) of each measure with the probe; 95 % of Spearman's over draws of encoders."""
    made = []
    for measure, value_of in MEASURES.items():
        there = [(value, each["probe"]) for each in found if (value := value_of(each["rows"][of])) is not None]
        values, accuracies = np.array(there).T
        drawn = np.random.default_rng(0).integers(0, len(there), (DRAWS, len(there)))
        low, high = np.nanpercentile([_spearman(values[each], accuracies[each]) for each in drawn], [2.5, 97.5])
        made.append({
            "of": of, "measure": measure, "encoders": len(there), "spearman": _spearman(values, accuracies),
            "low": float(low), "high": float(high), "kendall": float(kendalltau(values, accuracies).statistic),
        })  # fmt: skip
    return made


def _spearman(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    if len(set(one.tolist())) < 2 or len(set(other.tolist())) < 2:
        return float("nan")  # of a draw of one encoder alone
    return float(spearmanr(one, other).statistic)


def markdown(found: list[dict[str, Any]], made: list[dict[str, Any]]) -> str:
    lines = [
        "| encoder | steps | probe, % | RankMe | alpha-ReQ | LiDAR | RankMe, embeddings | LiDAR, embeddings |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for each in sorted(found, key=lambda each: each["probe"]):
        features, head = each["rows"]["features"], each["rows"]["embeddings"]
        alpha = "-" if features["alpha_req"] is None else f"{features['alpha_req']:.2f}"
        lines.append(
            f"| {each['name']} | {each['steps']} | {100 * each['probe']:.2f} | {features['rank_me']:.1f} | {alpha} | "
            f"{features['lidar']:.1f} | {head['rank_me']:.1f} | {head['lidar']:.1f} |"
        )
    lines += ["", "| of | measure | encoders | Spearman (95 %) | Kendall |", "| --- | --- | --- | --- | --- |"]
    for row in made:
        lines.append(
            f"| {row['of']} | {row['measure']} | {row['encoders']} | {row['spearman']:+.2f} ({row['low']:+.2f} to "
            f"{row['high']:+.2f}) | {row['kendall']:+.2f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--config", default="digits_demo")
    parser.add_argument("--steps", type=int, default=660, help="Of the whole recipe.")
    parser.add_argument("--also", nargs="*", default=[], metavar="KEY=VALUE", help="Of every encoder.")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    same_settings(given.folder, {"config": given.config, "steps": given.steps, "also": given.also})
    found = []
    for share in LENGTHS:
        steps = max(1, round(share * given.steps))
        found.append(encoder(given.folder, given.config, f"stopped after {steps}", steps, given.steps, given.also))
    for name, keys in BROKEN.items():
        found.append(encoder(given.folder, given.config, name, given.steps // 3, given.steps, [*given.also, *keys]))
    made = [row for of in ("features", "embeddings") for row in correlations(found, of)]
    made += correlations(found[: len(LENGTHS)], "features")
    (given.folder / "table.json").write_text(json.dumps({"encoders": found, "correlations": made}, indent=1))
    (given.folder / "table.md").write_text(markdown(found, made))
    print(markdown(found, made))


if __name__ == "__main__":
    main()
