"""``simclr-dist evaluate``: which images, which method, how many processes; a table, and a JSON file beside the run."""

from pathlib import Path
from typing import Any

import click

from simclr_dist.cli.encoding import (
    at_least_1,
    evaluating_processes,
    folder_of_results,
    given_options,
    start_in_processes,
    with_extraction,
)
from simclr_dist.cli.options import with_debug
from simclr_dist.cli.track import say_how_to_track
from simclr_dist.errors import UserError
from simclr_dist.evaluation.choices import (
    chosen_data,
    chosen_method,
    numbers_of_images,
    percentages,
    refuse_foreign,
    whole_numbers,
)
from simclr_dist.terminal import say


@click.command()
@click.argument("run", metavar="RUN_OR_WEIGHTS", type=click.Path(path_type=Path))
@click.argument("words", nargs=-1, metavar="[METHOD] [KEY=VALUE]...")
@click.option("--checkpoint", metavar="STEP|best|FILE", help="Of the run RUN.  [default: its newest]")
@click.option("--on", metavar="CONFIG|SOURCE|FOLDER", help="Other images to evaluate on.  [default: the run's own]")
@click.option("--labels", help="Numbers of labels a class: label-curve (1,2,5,10,50), lowshot (10,20,50,...,500).")
@click.option("--shares", default="1,10,100", show_default=True, help="Percent of the labels: finetune, baseline.")
@click.option("--splits", type=at_least_1, help="Draws of the labels.  [default: 5; finetune and baseline 1]")
@click.option("--k", type=at_least_1, default=20, show_default=True, help="Neighbours that vote: knn.")
@click.option("--temperature", type=click.FloatRange(min=0, min_open=True), default=0.1, show_default=True, help="knn.")
@click.option(
    "--solver", type=click.Choice(["auto", "lbfgs", "sgd"]), default="auto", show_default=True,
    help="Of probe; auto: lbfgs up to 100,000 images.",
)  # fmt: skip
@click.option("--augment", is_flag=True, help="probe --solver sgd on crops and flips, through the frozen encoder.")
@click.option("--epochs", type=at_least_1, help="Of SGD.  [default: probe 90, finetune 60 up to 1 % and else 30]")
@click.option("--batch", type=at_least_1, help="Images in a step of SGD.  [default: probe 4096, finetune the recipe's]")
@click.option(
    "--learning-rate", type=click.FloatRange(min=0, min_open=True),
    help="Of SGD, for 256 images.  [default: probe 0.1, finetune 0.05]",
)  # fmt: skip
@click.option("--optimizer", type=click.Choice(["sgd", "lars"]), help="sgd: Nesterov's.  [default: sgd]")
@click.option(
    "--precision", type=click.Choice(["float32", "bfloat16"]),
    help="Of the kernels of SGD; weights, kept features and accuracies are float32.  [default: float32]",
)  # fmt: skip
@click.option("--from-layer", type=click.IntRange(min=0), default=0, help="Head layers kept: finetune (SimCLR v2: 1).")
@click.option("--with-baseline", is_flag=True, help="finetune, segment: from scratch too, and the gain.")
@click.option("--images", default="all", show_default=True, help="Numbers of images with masks: segment (16,64,all).")
@click.option("--steps", type=at_least_1, default=2000, show_default=True, help="Of a training: segment.")
@click.option("--seeds", type=at_least_1, default=1, show_default=True, help="Trainings: segment.")
@click.option(
    "--output-stride", type=at_least_1,
    help="Pixels to one of the map: segment.  [default: the recipe's, or half the network's own]",
)  # fmt: skip
@click.option(
    "--short-side", type=at_least_1, help="Shorter side that images are scaled to: segment.  [default: as they are]"
)
@click.option("--seed", type=click.IntRange(0, 2**32), default=0, show_default=True)
@with_extraction
@click.option("--cache/--no-cache", default=True, help="Keep features in RUN_DIR/features.  [default: keep]")
@with_debug
@click.pass_context
def evaluate(command: click.Context, /, run: Path, words: tuple[str, ...], **options: Any) -> int:
    """Evaluate an encoder: a table here, a JSON file (and pictures) in the run's folder.

    RUN_OR_WEIGHTS is a run's folder, or a file of weights that `import` reads; its results stand in FILE.evaluation.

    \b
    METHOD is
      label-curve  linear probe and kNN with few labels, beside raw pixels and the untrained encoder (default)
      knn          weighted nearest neighbours among all training images
      probe        a linear classifier on the frozen features of all training images
      lowshot      the same with few labels a class: mean and deviation of several draws
      finetune     all weights, with 1, 10 and 100 % of the labels
      baseline     the same network from scratch, the same labels, the same budget
      segment      all weights and DeepLabV3's head, with masks: mean IoU

    KEY=VALUE overrides recipe.data of the images evaluated on. Runs under torchrun as pretrain does. Start the same
    command again to resume after a stop or a kill.
    """
    method, overrides = chosen_method(words)
    given = given_options(command)
    refuse_foreign(method, list(given), options["solver"])
    numbers = whole_numbers("--labels", options["labels"]) if options["labels"] is not None else None
    shares = percentages(options["shares"])
    images = numbers_of_images(options["images"])
    if (options["processes"] or 1) > 1:
        return start_in_processes("evaluate", options["processes"], [str(run), *words], given)
    with evaluating_processes("cpu" if method == "label-curve" else options["device"]) as here:
        from simclr_dist.data.sources.summary import say_what_was_found
        from simclr_dist.evaluation.features import Extraction
        from simclr_dist.evaluation.saved_training import TrainingStoppedError

        run_dir = folder_of_results(run)
        cache = run_dir / "features" if options["cache"] and method != "label-curve" else None
        how = Extraction(batch_images=options["batch_at_once"], device=here.device, cache=cache, talks=here.is_first)
        context = _opened(run, run_dir, how, options, overrides, masked=method == "segment")
        if here.is_first:
            say_what_was_found(*context.summaries())
        context.choose_workers(options["workers"], here.cores)
        status = 0
        try:
            if method == "label-curve":
                found = _label_curve(context, run_dir, numbers, options["splits"] or 5)
            elif method == "segment":
                found = _segmented(context, run_dir, images, options)
            else:
                found = _result(context, method, run_dir, numbers, shares, options)
        except TrainingStoppedError as stopped:
            found, status = str(stopped), 128 + stopped.signal
    if here.is_first:
        say(found)
        say_how_to_track(run_dir)
    return status


def _opened(run: Path, run_dir: Path, how: Any, options: dict[str, Any], overrides: list[str], *, masked: bool) -> Any:
    from simclr_dist.data.loading.broken import broken_files
    from simclr_dist.distributed.agreement import all_or_none
    from simclr_dist.evaluation.context import EvaluationContext
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
        data = chosen_data(pretrained.recipe.data, on, overrides, "folder_with_masks" if masked else "folder")
        broken = broken_files(run_dir, pretrained.recipe.data) if run_dir == run and on is None else set()
        kind = SegmentationContext if masked else EvaluationContext
        return kind(pretrained, data, how, Unfinished(run_dir / "unfinished"), broken)


def _label_curve(context: Any, run_dir: Path, counts: list[int] | None, splits: int) -> str:
    from simclr_dist.distributed.collectives import process_rank
    from simclr_dist.evaluation.label_curve import label_curve
    from simclr_dist.evaluation.labelled_images import are_unequal
    from simclr_dist.evaluation.report import table, write_points

    points = label_curve(context, counts, splits)
    if process_rank() != 0:
        return ""
    steps = context.steps_done
    spread = " +- standard deviation" if splits > 1 else ""
    title = f"held-out accuracy in %, mean{spread} of {splits} draws of the labels, after {steps} steps"
    return (
        f"{title}\n{table(points, balanced=are_unequal(context.test_labels))}\n{write_points(run_dir, steps, points)}"
    )


def _result(
    context: Any, method: str, run_dir: Path, numbers: list[int] | None, shares: list[float], options: dict[str, Any]
) -> str:
    """The table and the file's name; nothing on the other processes."""
    from simclr_dist.distributed.collectives import process_rank
    from simclr_dist.evaluation import fine_tuning, frozen

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
        if method == "probe":
            found = frozen.probe(context, solver=options["solver"], augment=options["augment"], **sgd)
        else:
            starts = {"baseline": ("scratch",)}.get(method, ("pretrained", "scratch")[: 1 + options["with_baseline"]])
            found = fine_tuning.finetune(
                context, label_shares=shares, splits=splits or 1, starts=starts, from_layer=options["from_layer"], **sgd
            )
    if found is None or process_rank() != 0:
        return ""
    return _written(context, found, run_dir, "accuracy")


def _segmented(context: Any, run_dir: Path, images: list[int | None], options: dict[str, Any]) -> str:
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
    return _written(context, result, run_dir, "IoU", sheet) if process_rank() == 0 else ""


def _written(context: Any, found: Any, run_dir: Path, what: str, sheet: Any = None) -> str:
    """Write the result, and a picture of its name beside it; the table and the file's name."""
    try:
        path = found.write(run_dir)
        if sheet is not None:
            from simclr_dist.evaluation.mask_pictures import write_png

            write_png(path.with_suffix(".png"), sheet)
    except OSError as error:
        raise UserError(f"{run_dir}: the result cannot be written: {error.strerror}") from error
    context.unfinished.remove()
    title = (
        f"{found.method} on {context.data.source}, {len(context.test)} test images, {what} in %, after "
        f"{found.steps_done} steps"
    )
    return f"{title}\n{found.table()}\n{path}"
