"""What ``simclr-dist evaluate`` calls; torch is imported only then: encoder and images, each method, the file."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from simclr_dist.errors import UserError
from simclr_dist.evaluation.choices import chosen_data
from simclr_dist.terminal import say


def opened(run: Path, run_dir: Path, how: Any, options: dict[str, Any], overrides: list[str], method: str) -> Any:
    """The evaluation context: the encoder of a run or file, and the images.

    Raises:
        UserError: one of them cannot be had.
    """
    from simclr_dist.data.loading.broken import broken_files
    from simclr_dist.data.sources.shards.settings import shards_of_run
    from simclr_dist.distributed.agreement import all_or_none
    from simclr_dist.evaluation.context import EvaluationContext
    from simclr_dist.evaluation.label_free import UnlabelledImages
    from simclr_dist.evaluation.saved_training import Unfinished
    from simclr_dist.evaluation.segmentation_context import SegmentationContext
    from simclr_dist.run.kept import named_checkpoint
    from simclr_dist.weights.read import load_encoder

    on, name = options["on"], options["checkpoint"]
    with all_or_none():
        if name and run_dir != run:
            raise UserError(f"--checkpoint: {run} is no run folder; give that, or leave the option out")
        pretrained = load_encoder(named_checkpoint(run, name) if name else run)
        if run_dir != run:
            if on is None:
                raise UserError(f"{run}: a file of weights knows no labelled images; give --on")
            run_dir.mkdir(exist_ok=True)
        if not os.access(run_dir, os.W_OK):
            raise UserError(f"{run_dir}: no result can be written there; make it writable, or evaluate a copy of it")
        data = chosen_data(
            pretrained.recipe.data, on, overrides, "folder_with_masks" if method == "segment" else "folder"
        )
        broken = broken_files(run_dir, pretrained.recipe) if run_dir == run and on is None else set()
        kinds = {"segment": SegmentationContext, "label-free": UnlabelledImages}
        kind, unfinished = kinds.get(method, EvaluationContext), Unfinished(run_dir / "unfinished")
        # Without --on another path is the same images in another place.
        own = on is None and data.source == pretrained.recipe.data.source
        return kind(pretrained, shards_of_run(run), data, how, unfinished, broken, own)


def found_by_label_curve(context: Any, run_dir: Path, counts: list[int] | None, splits: int) -> str:
    """The table and the file's name; nothing on the other processes."""
    from simclr_dist.distributed.collectives import process_rank
    from simclr_dist.evaluation.label_curve import label_curve
    from simclr_dist.evaluation.labelled_images import are_unequal
    from simclr_dist.evaluation.report import table, write_points

    points = label_curve(context, counts, splits)
    if process_rank() != 0:
        return ""
    spread = " +- standard deviation" if splits > 1 else ""
    title = f"held-out accuracy in %, mean{spread} of {splits} draws of the labels, after {context.steps_done} steps"
    shown = f"{title}\n{table(points, balanced=are_unequal(context.test_labels))}"
    with _shown_at_least(shown, run_dir):
        path = write_points(context, run_dir, points)
    return f"{shown}\n{path}"


def found_by(
    context: Any, method: str, run_dir: Path, numbers: list[int] | None, shares: list[float], options: dict[str, Any]
) -> str:
    """The table and the file's name; nothing on the other processes."""
    from simclr_dist.distributed.collectives import process_rank
    from simclr_dist.evaluation import fine_tuning, frozen
    from simclr_dist.evaluation.probe_grid import probe_grid

    seed, splits = options["seed"], options["splits"]
    found: Any
    if method == "knn":
        found = frozen.knn(context, neighbours=options["k"], temperature=options["temperature"])
    elif method == "lowshot":
        found = frozen.lowshot(context, labels_per_class=numbers, splits=splits or 5, seed=seed)
    else:
        sgd = {
            "epochs": options["epochs"],
            "batch_images": options["batch"],
            "base_learning_rate": options["learning_rate"],
            "optimizer": options["optimizer"],
            "precision": options["precision"],
            "seed": seed,
        }
        if options["grid"]:
            del sgd["optimizer"]
            found = probe_grid(context, augment=options["augment"], **sgd)
        elif method == "probe":
            found = frozen.probe(context, solver=options["solver"], augment=options["augment"], **sgd)
        else:
            starts = {"baseline": ("scratch",)}.get(method, ("pretrained", "scratch")[: 1 + options["with_baseline"]])
            found = fine_tuning.finetune(
                context, label_shares=shares, splits=splits or 1, starts=starts, from_layer=options["from_layer"], **sgd
            )
    if found is None or process_rank() != 0:
        return ""
    return _written(context, found, run_dir, f"{len(context.test)} test images, accuracy in %")


def found_by_label_free(context: Any, run_dir: Path, options: dict[str, Any]) -> str:
    """The table and the file's name; nothing on the other processes."""
    from simclr_dist.distributed.collectives import process_rank
    from simclr_dist.evaluation.label_free import label_free

    found = label_free(context, views=options["views"], seed=options["seed"])
    if process_rank() != 0:
        return ""
    protocol = found.protocol
    views = f"LiDAR of {protocol['views']} views each of {protocol['images_with_views']}"
    return _written(context, found, run_dir, f"{protocol['images']} images, {views}")


def found_by_segment(context: Any, run_dir: Path, images: list[int | None], options: dict[str, Any]) -> str:
    """The table and the file's name; nothing on the other processes."""
    from simclr_dist.distributed.collectives import process_rank
    from simclr_dist.evaluation.segmentation import segment

    result, sheet = segment(
        context,
        images=images,
        seeds=options["seeds"],
        starts=("pretrained", "scratch")[: 1 + options["with_baseline"]],
        steps=options["steps"],
        output_stride=options["output_stride"] or 0,
        short_side=options["short_side"] or 0,
        batch_images=options["batch"],
        base_learning_rate=options["learning_rate"],
        precision=options["precision"],
        seed=options["seed"],
    )
    asked = f"{len(context.test)} test images, IoU in %"
    return _written(context, result, run_dir, asked, sheet) if process_rank() == 0 else ""


def _written(context: Any, found: Any, run_dir: Path, what: str, sheet: Any = None) -> str:
    """Write the result, and a picture of its name beside it; the table and the file's name."""
    title = f"{found.method} on {context.data.source}, {what}, after {found.steps_done} steps"
    shown = f"{title}\n{found.table()}"
    with _shown_at_least(shown, run_dir):
        path = found.write(run_dir)
        if sheet is not None:
            from simclr_dist.evaluation.mask_pictures import write_png

            write_png(path.with_suffix(".png"), sheet)
    context.unfinished.remove()
    return f"{shown}\n{path}"


@contextmanager
def _shown_at_least(shown: str, run_dir: Path) -> Iterator[None]:
    """Where the block cannot write what was computed, show it all the same.

    Raises:
        UserError: it could not.
    """
    try:
        yield
    except OSError as error:
        say(shown)
        raise UserError(
            f"{run_dir}: this result cannot be written: {error.strerror}; mend that, and evaluate again"
        ) from error
