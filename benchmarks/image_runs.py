"""What benchmarks/methods_on_images.py starts: a run of one method and its evaluation, steps timed in turn, references.

Each writes JSON below the folder of the comparison: ``rows/METHOD_SEED.json``, ``steps.json``, ``rows/untrained.json``.
"""

import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from image_recipes import config_of
from side_by_side import in_turn

from simclr_dist.config import Config
from simclr_dist.config.registry import method_class
from simclr_dist.data.loading.batches import build_batches
from simclr_dist.data.loading.order import build_order
from simclr_dist.data.sources.base import ImageSource
from simclr_dist.data.sources.named import open_for_pretraining, open_source
from simclr_dist.distributed.devices import choose_device
from simclr_dist.distributed.processes import Processes
from simclr_dist.evaluation.classifiers import accuracies, chosen_probe
from simclr_dist.evaluation.feature_blocks import Features
from simclr_dist.evaluation.features import Extraction, extract_features, raw_pixels
from simclr_dist.evaluation.knn import knn_scores
from simclr_dist.evaluation.untrained import untrained_encoder
from simclr_dist.guards.anomalies import AnomalyWatch
from simclr_dist.losses.spread import rank_me
from simclr_dist.models.kernels import set_kernels
from simclr_dist.optim.schedule import build_schedule
from simclr_dist.run.metrics_log import read_metrics
from simclr_dist.storage.atomic import write_atomically
from simclr_dist.training.pretraining import pretrain
from simclr_dist.training.step import TrainingStep
from simclr_dist.weights.read import load_encoder

STOPPED = 75
"""Exit status of a run that a signal has stopped: it is saved, and goes on when started again."""


def write(path: Path, content: Any) -> None:
    path.parent.mkdir(exist_ok=True, parents=True)
    write_atomically(path, json.dumps(content, indent=1).encode())


def run(method: str, seed: int, folder: Path, overrides: list[str]) -> int:
    """Pretrain, evaluate, write the row; where it fails the row says why."""
    row: dict[str, Any] = {"method": method, "seed": seed}
    try:
        config = config_of(method, seed, folder, overrides)
        outcome = pretrain(config, Processes())
        if outcome.steps_done < outcome.total_steps:
            return STOPPED
        row |= _found(config)
    except Exception as error:
        row["error"] = f"{type(error).__name__}: {error}".splitlines()[0]
        write(folder / "rows" / f"{method}_{seed}.json", row)
        raise
    write(folder / "rows" / f"{method}_{seed}.json", row)
    return 0


def _found(config: Config) -> dict[str, Any]:
    lines = read_metrics(Path(config.machine.run_dir) / "metrics.jsonl")
    ranks = [line["rank_me"] for line in lines if line.get("rank_me") is not None]
    recipe, where = config.recipe, _extraction(config)
    encoder = load_encoder(config.machine.run_dir).encoder
    train, test = (open_source(recipe.data, config.machine.shards, split) for split in ("train", "test"))
    features = [extract_features(encoder, each, recipe.data.image_size, where) for each in (train, test)]
    return {
        "needs": sorted(method_class(recipe.method.name).needs),
        "views": sum(group.count for group in recipe.views.values()),
        "steps": len(lines),
        "loss": lines[-1]["loss"],
        "embedding_std": lines[-1].get("embedding_std"),
        "rank_of_embeddings": ranks[-1] if ranks else None,
        "loader_seconds_a_step": statistics.median(line["step_seconds"] for line in lines),
        "training_seconds": sum(line["step_seconds"] for line in lines),
        **judged(features[0], train, features[1], test, where.device),
    }


def _extraction(config: Config) -> Extraction:
    return Extraction(batch_images=250, device=choose_device(config.machine.device, 0))


def judged(
    train: Features, train_source: ImageSource, test: Features, test_source: ImageSource, device: torch.device
) -> dict[str, Any]:
    """kNN (20 neighbours, cosine), a linear probe by logistic regression, and RankMe of the test images' features."""
    assert train_source.labels is not None
    assert test_source.labels is not None
    votes = knn_scores(train, train_source.labels, test, device=device)
    probe = chosen_probe(train, train_source.labels, 0, device=device)
    return {
        "knn": accuracies(votes, test_source.labels)[0],
        "probe": accuracies(probe.scores(test), test_source.labels)[0],
        "rank_of_features": float(rank_me(torch.from_numpy(test))),
        "features": train.shape[1],
    }


def references(folder: Path, overrides: list[str]) -> int:
    """The same of raw pixels, for which kNN may choose to centre them, and of the encoder with random weights."""
    config = config_of("simclr", 0, folder, overrides)
    recipe, where = config.recipe, _extraction(config)
    size = recipe.data.image_size
    train, test = (open_source(recipe.data, config.machine.shards, split) for split in ("train", "test"))
    assert train.labels is not None
    assert test.labels is not None
    if not (folder / "rows" / "raw pixels.json").exists():
        pixels = [_one_channel(raw_pixels(each, size)) for each in (train, test)]
        row = judged(pixels[0], train, pixels[1], test, where.device)
        mean = pixels[0].mean(0)
        centred = accuracies(knn_scores(pixels[0] - mean, train.labels, pixels[1] - mean), test.labels)[0]
        write(folder / "rows" / "raw pixels.json", row | {"method": "raw pixels", "knn": max(row["knn"], centred)})
    encoder = untrained_encoder(recipe, train)
    features = [extract_features(encoder, each, size, where) for each in (train, test)]
    row = judged(features[0], train, features[1], test, where.device)
    write(folder / "rows" / "untrained.json", row | {"method": "untrained"})
    return 0


def _one_channel(pixels: Features) -> Features:
    """Grey images have three equal ones, which would only cost the probe time."""
    channels = pixels.reshape(len(pixels), 3, -1)
    is_grey = np.array_equal(channels[:, 0], channels[:, 1]) and np.array_equal(channels[:, 0], channels[:, 2])
    return np.ascontiguousarray(channels[:, 0]) if is_grey else pixels


def steps(methods: list[str], folder: Path, overrides: list[str], rounds: int) -> int:
    """Seconds of a step of each method, in turn in one process with its images at hand; and what a step holds."""
    found: dict[str, dict[str, Any]] = {}
    contenders: dict[str, Callable[[], object]] = {}
    for name in methods:
        try:
            config = config_of(name, 0, folder, overrides)
            contenders[name], found[name] = _timed_step(config)
        except Exception as error:  # the others are timed all the same
            found[name] = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
    for name, seconds in in_turn(contenders, rounds, warm_up=2).items():
        found[name]["seconds"] = seconds
    write(folder / "steps.json", found)
    return 0


def _timed_step(config: Config) -> tuple[Callable[[], object], dict[str, Any]]:
    recipe, device = config.recipe, choose_device(config.machine.device, 0)
    set_kernels(deterministic=config.machine.deterministic, precision=config.machine.precision)
    source = open_for_pretraining(config)
    order = build_order(recipe, len(source))
    schedule = build_schedule(recipe, order)
    held = torch.cuda.memory_allocated() if device.type == "cuda" else 0
    watch = AnomalyWatch(recipe.anomalies, Path(), 0, None, active=False)
    step = TrainingStep(config, Processes(), device, schedule, order.steps_per_epoch, len(source), watch)
    step.make_parallel()
    batch = build_batches(config, source, order, 0, 1)[0]

    def one() -> None:
        step(batch, 1)  # no step of those that tell RankMe
        if device.type == "cuda":
            torch.cuda.synchronize()

    one()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        one()
        peak = torch.cuda.max_memory_allocated() - held
    else:
        peak = _bytes_of(step) + _peak_of(one)
    return one, {"memory_bytes": peak, "parameters": sum(each.numel() for each in step.method.parameters())}


def _bytes_of(step: TrainingStep) -> int:
    states = (value for state in step.optimizer.state.values() for value in state.values() if torch.is_tensor(value))
    kept = [*step.method.parameters(), *step.method.buffers(), *states]
    return sum(each.numel() * each.element_size() for each in kept)


def _peak_of(function: Callable[[], object]) -> int:
    """Highest level of torch's CPU allocator over the start of ``function``."""
    with torch.autograd.profiler.profile(profile_memory=True) as profile:
        function()
    level = peak = 0
    for event in profile.kineto_results.events():
        if event.name() == "[memory]":
            level += event.nbytes()
            peak = max(peak, level)
    return peak


def main() -> int:
    """``image_runs.py run|references|steps FOLDER ARGUMENTS``, the arguments as JSON."""
    kind, folder, given = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3])
    if kind == "run":
        return run(given["method"], given["seed"], folder, given["overrides"])
    if kind == "references":
        return references(folder, given["overrides"])
    return steps(given["methods"], folder, given["overrides"], given["rounds"])


if __name__ == "__main__":
    sys.exit(main())
