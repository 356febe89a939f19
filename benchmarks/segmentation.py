"""What pretraining is worth to segmentation with few masks: mean IoU of four ways on the same images.

    python benchmarks/pasted_cutouts.py pasted
    python benchmarks/segmentation.py --out OUT --data pasted
    python benchmarks/segmentation.py --out OUT --data pasted --device cuda --pretrain-steps 3000 --steps 2000

The ways: cross-entropy alone, from initial weights; SimCLR on all training images, the unlabelled too; pixel contrast
within images and across them, on the images with masks that are learned from afterwards; and, where --ways asks for
it, across them with all other images too, whose pixels are each a class of its own. Then all weights are fine-tuned
with 16, 64 and all masks, as `simclr-dist evaluate RUN segment` does it, the same number of steps for all ways but
cross-entropy alone, which gets the steps of pixel contrast's pretraining on top. Every way is fine-tuned at each of
--rates, and the table has the better one of each cell. A seed is of pretraining and of fine-tuning; the images with
masks stay the same.

One process, one job after the other; others may work in OUT at the same time on other ways, seeds or, SimCLR aside,
numbers of masks. OUT keeps everything: what is there is not done again, what was stopped resumes, what failed is a row
with its reason and is tried anew at the next start. OUT/table.md and OUT/table.json are written after every job.
--only-list says what is left to do.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from same_settings import same_settings
from segmentation_table import ALONE, file_name, write_table

from simclr_dist.config import Config, load_config
from simclr_dist.data.sources.named import open_for_pretraining
from simclr_dist.distributed.devices import choose_device
from simclr_dist.distributed.processes import Processes
from simclr_dist.evaluation.features import Extraction
from simclr_dist.evaluation.saved_training import TrainingStoppedError, Unfinished
from simclr_dist.evaluation.segmentation import segment
from simclr_dist.evaluation.segmentation_context import SegmentationContext
from simclr_dist.methods.build import build_encoder
from simclr_dist.models.kernels import set_kernels
from simclr_dist.storage.atomic import write_atomically
from simclr_dist.training.pretraining import pretrain
from simclr_dist.weights.loaded import LoadedEncoder
from simclr_dist.weights.read import load_encoder

UNLABELLED = "unlabelled"
WAYS = (ALONE, "simclr", "within", "cross", UNLABELLED)
STOPPED = 75
"""Exit status of a start that a signal has stopped: it is saved, and the same command goes on."""
BASE = """
recipe:
  warmup_epochs: 0
  data: {source: folder_with_masks}
  encoder: {zero_init_residual: false}
  anomalies: {on_not_finite: stop}
"""
PIXEL_CONTRAST = (
    "method.name=pixel_contrast", "method.head_batch_norm=true", "optimizer.name=adamw", "optimizer.momentum=0.9",
    "optimizer.weight_decay=0.01", "optimizer.learning_rate_scaling=none",
)  # fmt: skip
"""Keys below ``recipe``. AdamW and batch norm in the head: a few hundred steps are too few for SGD without."""
SIMCLR = (
    "method.name=simclr", "method.temperature=0.2", "data.unlabelled_images=kept", "views.crop_area_min=0.25",
    "optimizer.name=adamw", "optimizer.momentum=0.9", "optimizer.weight_decay=0.01",
    "optimizer.learning_rate_scaling=none",
)  # fmt: skip


class Job(NamedTuple):
    """One fine-tuning, and the pretraining that it needs where that is not there yet."""

    way: str
    images: int | None
    """With masks; None: all."""
    seed: int
    rate: float
    """Of fine-tuning, for 256 images."""


class StoppedError(Exception):
    """A signal stopped a pretraining."""


def wanted(out: Path, options: argparse.Namespace) -> list[Job]:
    """What is not there yet, in the order in which it is done: whole tables of one seed, then the next."""
    jobs = [
        Job(way, images, seed, rate)
        for seed in options.seeds
        for images in options.images
        for way in options.ways
        for rate in options.rates
    ]
    files = {job: out / "rows" / file_name(**job._asdict()) for job in jobs}
    return [job for job, file in files.items() if not file.exists() or "error" in json.loads(file.read_text())]


def config_of(job: Job, out: Path, options: argparse.Namespace) -> Config:
    """The recipe of a job's pretraining; of cross-entropy alone its encoder and images."""
    file = out / "base.yaml"
    if not file.exists():
        file.write_text(BASE)
    keys = [
        f"data.path={options.data.resolve()}", f"data.image_size={options.image_size}", f"seed={job.seed}",
        f"encoder.name={options.encoder}", f"encoder.width={options.width}", f"encoder.stem={options.stem}",
        f"encoder.output_stride={options.output_stride}",
    ]  # fmt: skip
    name, batch = f"{job.way}_{job.seed}", options.batch
    if job.way == "simclr":
        batch = options.simclr_batch
        keys += [*SIMCLR, f"optimizer.base_learning_rate={options.pretrain_rate}", f"epochs={options.simclr_epochs}"]
    elif job.way != ALONE:
        name = f"{job.way}_{job.images or 'all'}_{job.seed}"
        others = job.way == UNLABELLED
        keys += [
            *PIXEL_CONTRAST,
            f"method.loss={'cross' if others else job.way}",
            f"method.map_size={options.map_size}",
        ]
        keys += [f"data.labelled_images={job.images or 0}", f"optimizer.base_learning_rate={options.pretrain_rate}"]
        if others:
            batch = options.simclr_batch
            keys += ["method.unlabelled=pixels", "data.unlabelled_images=kept"]
        images = 0 if others else job.images
        images = images or len(open_for_pretraining(load_config(str(file), _below_recipe(keys))))
        batch = min(batch, images)
        keys.append(f"epochs={-(-options.pretrain_steps // (images // batch))}")
    machine = [
        f"machine.run_dir={out / 'runs' / name}", f"machine.device={options.device}", "machine.channels_last=true",
        f"machine.threads_per_process={options.threads}", f"machine.loader_workers={options.workers}",
        "machine.keep_checkpoints=1", f"machine.precision={options.precision}",
    ]  # fmt: skip
    return load_config(str(file), [*_below_recipe([*keys, f"global_batch_images={batch}"]), *machine])


def _below_recipe(keys: list[str]) -> list[str]:
    return [f"recipe.{key}" for key in keys]


def done(job: Job, out: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Do one; what its row says.

    Raises:
        StoppedError, TrainingStoppedError: a signal came; it was saved.
    """
    config = config_of(job, out, options)
    device = choose_device(options.device, 0)
    set_kernels(deterministic=True)  # for all ways alike: pretraining does it, and fine-tuning is in the same process
    began, steps, start = time.process_time(), options.steps, "pretrained"
    if job.way == ALONE:
        recipe = config.recipe
        loaded = LoadedEncoder(encoder=build_encoder(recipe), recipe=recipe, source="initial weights")
        steps, start = steps + options.pretrain_steps, "scratch"
    else:
        outcome = pretrain(config, Processes())
        if outcome.steps_done < outcome.total_steps:
            raise StoppedError
        loaded = load_encoder(config.machine.run_dir)
    torch.set_num_threads(options.threads)
    pretraining_seconds = time.process_time() - began
    unfinished = Unfinished(out / "unfinished" / Path(file_name(**job._asdict())).stem)
    how = Extraction(device=device, workers=options.workers, talks=True)
    context = SegmentationContext(loaded, config.machine.shards, config.recipe.data, how, unfinished)
    found, _ = segment(
        context,
        images=[job.images],
        starts=[start],
        steps=steps,
        output_stride=options.output_stride,
        batch_images=options.batch,
        base_learning_rate=job.rate,
        precision=options.precision,
        seed=job.seed,
    )
    unfinished.remove()
    (row,) = found.rows
    return {
        "mean_iou": row.mean_iou[0],
        "class_iou": row.class_iou[0],
        "pixel_accuracy": row.pixel_accuracy[0],
        "masks": row.images,
        "subset_sha256": row.subset_sha256,
        "pretraining_steps": loaded.steps_done or 0,
        "fine_tuning_steps": row.details["steps"],
        "pretraining_cpu_seconds": pretraining_seconds,
        "cpu_seconds": time.process_time() - began,
    }


def work(jobs: list[Job], out: Path, options: argparse.Namespace) -> int:
    """Do them; the status to exit with."""
    for number, job in enumerate(jobs, 1):
        name = f"{job.way}, {job.images or 'all'} masks, seed {job.seed}, rate {job.rate:g}"
        print(f"{number} of {len(jobs)}: {name}", flush=True)
        row: dict[str, Any] = job._asdict()
        try:
            row |= done(job, out, options)
            print(f"{name}: mean IoU {100 * row['mean_iou']:.2f} % ({row['cpu_seconds']:.0f} CPU seconds)", flush=True)
        except (StoppedError, TrainingStoppedError):
            print("stopped and saved; the same command goes on", flush=True)
            return STOPPED
        except Exception as error:  # the others are done all the same
            row["error"] = f"{type(error).__name__}: {error}".splitlines()[0]
            print(f"{name}: failed: {row['error']}", flush=True)
        write_atomically(out / "rows" / file_name(**job._asdict()), json.dumps(row, indent=1).encode())
        write_table(out)
    return 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="a folder as source folder_with_masks takes it")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS[:4]))
    parser.add_argument("--images", nargs="+", type=_count, default=[16, 64, None], help="with masks: numbers, or all")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--encoder", default="resnet10")
    parser.add_argument("--width", type=float, default=0.5)
    parser.add_argument("--stem", choices=["imagenet", "small"], default="imagenet")
    parser.add_argument("--output-stride", type=int, default=8)
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--batch", type=int, default=16, help="of pixel contrast and of all fine-tuning")
    parser.add_argument("--pretrain-steps", type=int, default=250, help="of pixel contrast")
    parser.add_argument("--pretrain-rate", type=float, default=0.002, help="of AdamW")
    parser.add_argument("--map-size", type=int, default=0, help="of pixel contrast; 0: the encoder's own")
    parser.add_argument("--simclr-epochs", type=int, default=8)
    parser.add_argument("--simclr-batch", type=int, default=64, help="of the ways that see all images")
    parser.add_argument("--steps", type=int, default=250, help="of fine-tuning")
    parser.add_argument("--rates", type=float, nargs="+", default=[0.45, 1.6], help="of fine-tuning, for 256 images")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32", help="of the kernels")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--workers", type=int, default=0, help="that load images")
    parser.add_argument("--only-list", action="store_true", help="say what is left, and do nothing")
    options = parser.parse_args()
    for kept in ("rows", "runs"):
        (options.out / kept).mkdir(parents=True, exist_ok=True)
    same_settings(options.out, {key: _plain(getattr(options, key)) for key in SETTINGS})
    jobs = wanted(options.out, options)
    if options.only_list:
        print("\n".join(" ".join(map(str, job)) for job in jobs))
        return
    status = work(jobs, options.out, options)
    write_table(options.out)
    print((options.out / "table.md").read_text())
    sys.exit(status)


SETTINGS = (
    "data", "encoder", "width", "stem", "output_stride", "image_size", "batch", "pretrain_steps", "pretrain_rate",
    "map_size", "simclr_epochs", "simclr_batch", "steps", "precision",
)  # fmt: skip
"""Options that all rows of a table share."""


def _plain(value: Any) -> Any:
    return str(value.resolve()) if isinstance(value, Path) else value


def _count(text: str) -> int | None:
    return None if text == "all" else int(text)


if __name__ == "__main__":
    main()
