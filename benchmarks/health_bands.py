"""Measure health bands for a recipe: from runs that differ in recipe.seed alone to the `health` section of its config.

    python benchmarks/health_bands.py runs/seed0 runs/seed1 runs/seed2 runs/seed3

A band is the 99 % prediction interval for one more run (Student's t): mean +- t * sd * sqrt(1 + 1/n) of the n runs that
reached it, rounded outwards to halves (narrow ones to tenths or hundredths), within 0 to 100 %. Runs need
machine.evaluate_every_epochs for the kNN bands.
"""

import argparse
import math
from pathlib import Path

import numpy as np
from scipy.stats import t

from simclr_dist.config import load_config
from simclr_dist.data.loading.order import build_order
from simclr_dist.data.sources.named import open_source
from simclr_dist.guards.health_bands import judge, step_of
from simclr_dist.optim.schedule import build_schedule
from simclr_dist.run.metrics_log import read_metrics

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("runs", nargs="+", type=Path)
parser.add_argument("--metrics", nargs="+", default=["contrastive_top1", "online_knn_top1"])
parser.add_argument("--percents", nargs="+", type=float, default=[5, 10, 20, 100])
choices = parser.parse_args()

config = load_config(str(choices.runs[0] / "config.yaml"))
recipe = config.recipe
order = build_order(recipe, len(open_source(recipe.data, config.machine.shards)))
steps = build_schedule(recipe, order).total_steps
lines = [read_metrics(run / "metrics.jsonl") for run in choices.runs]
print("health:")
for metric in choices.metrics:
    print(f"  {metric}:\n    bands:")
    for percent in choices.percents:
        band = {"metric": metric, "step": step_of(percent, steps), "low": 0, "high": 100}
        reached = [each for each in lines if len(each) >= band["step"]]
        found = [
            value
            for each in reached
            if (value := judge(band, each, order.steps_per_epoch, config.metrics[metric].factor)[0]) is not None
        ]
        if len(found) < 2:
            print(f"      # {percent:g}: {len(found)} of {len(lines)} runs have a value there")
            continue
        mean, spread = np.mean(found), np.std(found, ddof=1)
        width = t.ppf(0.995, len(found) - 1) * spread * math.sqrt(1 + 1 / len(found))
        parts = next(parts for parts in (2, 10, 100) if width * parts >= 1 or parts == 100)
        low, high = math.floor(parts * max(0, mean - width)) / parts, math.ceil(parts * min(100, mean + width)) / parts
        print(f"      {percent:g}: [{low:g}, {high:g}] # {len(found)} runs: {mean:.2f} +- {spread:.2f}")
