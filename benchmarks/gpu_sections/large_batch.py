"""A whole run: 4096 images a step in exact chunks, from pictures to the label curve, on patches of photographs.

The digits are too few for such a batch, and other labelled sets need a network: six photographs of scikit-image and
scikit-learn, whose test patches come from another part of them, are the labelled images at hand.
"""

from collections.abc import Iterator
from pathlib import Path

from photographs import write_labelled_patches

from gpu_sections.here import Here, Row, config_of
from simclr_dist.config.recipe import Data
from simclr_dist.distributed.processes import Processes
from simclr_dist.evaluation.context import EvaluationContext
from simclr_dist.evaluation.features import Extraction
from simclr_dist.evaluation.label_curve import label_curve
from simclr_dist.evaluation.saved_training import Unfinished
from simclr_dist.run.metrics_log import read_metrics
from simclr_dist.training.pretraining import pretrain
from simclr_dist.weights.read import load_encoder


def rows(here: Here) -> Iterator[Row]:
    side, images, chunk = here.size((32, 4096, 512), (16, 24, 8))
    patches, run = here.folder / "patches", here.folder / "run"
    write_labelled_patches(patches, side=side, train=here.size(1366, 6), test=here.size(100, 2))
    config = config_of(
        here.size("resnet18", "resnet10"), images, side, group=chunk // 2, stem="small", width=here.size(1.0, 0.25),
        precision=here.size("bfloat16", "float32"), channels_last=True, images_per_chunk=chunk, run_dir=str(run),
        device=here.device.type, loader_workers=here.size(-1, 0), stop_after_steps=here.size(0, 2),
        threads_per_process=here.threads,
    )  # fmt: skip
    config.recipe.data = Data(source="folder", path=str(patches), image_size=side)
    config.recipe.epochs, config.recipe.warmup_epochs = here.size((25, 5), (10, 1))
    pretrain(config, Processes())
    yield _pretraining(run, images, chunk, here)
    how = Extraction(batch_images=here.size(512, 8), device=here.device, talks=False)
    context = EvaluationContext(load_encoder(run), config.machine.shards, None, how, Unfinished(run / "unfinished"))
    points = label_curve(context, here.size([50], [1]), here.size(3, 1))
    for classifier in ("linear probe", "kNN"):
        of_one = [point for point in points if point.classifier == classifier]
        found = {(point.features, point.labels_per_class): 100 * point.mean for point in of_one}
        most = max(count for _, count in found)
        shown = ", ".join(f"{features} {value:.1f}" for (features, count), value in found.items() if count == most)
        best = max(("pretrained", "untrained", "raw pixels"), key=lambda features: found[features, most])
        numbers = {f"{features}, {count} labels": accuracy for (features, count), accuracy in found.items()}
        what = f"{classifier}, {most} labels a class, accuracy in %"
        yield Row(what, shown, numbers, "pretrained best", here.bound(best == "pretrained"))


def _pretraining(run: Path, images: int, chunk: int, here: Here) -> Row:
    lines = read_metrics(run / "metrics.jsonl")
    losses, rates = [line["loss"] for line in lines], sorted(line["images_per_second"] for line in lines)
    rate = rates[len(rates) // 2]
    figure = f"{len(lines)} steps, loss {losses[0]:.3f} to {losses[-1]:.3f}, {rate:,.0f} images/s"
    numbers, holds = {"losses": losses, "images_per_second": rate}, here.bound(losses[-1] < losses[0])
    return Row(f"{images} images a step, chunks of {chunk}", figure, numbers, "the loss falls", holds)
