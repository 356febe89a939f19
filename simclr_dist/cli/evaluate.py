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
from simclr_dist.cli.evaluation_calls import (
    found_by,
    found_by_label_curve,
    found_by_label_free,
    found_by_segment,
    opened,
)
from simclr_dist.cli.options import NameType, NumberType, PathType, with_debug
from simclr_dist.cli.track import say_how_to_track
from simclr_dist.evaluation.choices import (
    chosen_method,
    numbers_of_images,
    percentages,
    refuse_foreign,
    whole_numbers,
)
from simclr_dist.terminal import say


@click.command()
@click.argument("run", metavar="RUN_OR_WEIGHTS", type=PathType())
@click.argument("words", nargs=-1, metavar="[METHOD] [KEY=VALUE]...")
@click.option("--checkpoint", type=NameType(), metavar="STEP|best|FILE", help="Of the run RUN.  [default: its newest]")
@click.option(
    "--on", type=NameType(), metavar="CONFIG|SOURCE|FOLDER",
    help="Other images to evaluate on.  [default: the run's own]",
)  # fmt: skip
@click.option("--labels", help="Numbers of labels a class: label-curve (1,2,5,10,50), lowshot (10,20,50,...,500).")
@click.option("--shares", default="1,10,100", show_default=True, help="Percent of the labels: finetune, baseline.")
@click.option("--splits", type=at_least_1, help="Draws of the labels.  [default: 5; finetune and baseline 1]")
@click.option("--k", type=at_least_1, default=20, show_default=True, help="Neighbours that vote: knn.")
@click.option("--temperature", type=NumberType(low=1e-6), default=0.1, show_default=True, help="knn.")
@click.option(
    "--solver", type=click.Choice(["auto", "lbfgs", "sgd"]), default="auto", show_default=True,
    help="Of probe; auto: lbfgs up to 100,000 images.",
)  # fmt: skip
@click.option("--augment", is_flag=True, help="probe --solver sgd on crops and flips, through the frozen encoder.")
@click.option("--grid", is_flag=True, help="probe: 13 learning rates x last layers x pooling, the best one counts.")
@click.option("--epochs", type=at_least_1, help="Of SGD.  [default: probe 90, finetune 60 up to 1 % and else 30]")
@click.option(
    "--batch", type=at_least_1,
    help="Images in a step of SGD.  [default: probe 4096, finetune the recipe's, segment 16]",
)  # fmt: skip
@click.option(
    "--learning-rate", type=NumberType(above=0, high=1e6),
    help="Of SGD, for 256 images; of --grid the largest.  [default: probe 0.1, finetune 0.05, segment 0.112]",
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
@click.option("--views", type=click.IntRange(2, 64), default=10, show_default=True, help="Of an image: label-free.")
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
      label-free   RankMe, alpha-ReQ and LiDAR of the features: no label is looked at

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
        context = opened(run, run_dir, how, options, overrides, method)
        if here.is_first:
            say_what_was_found(*context.summaries())
        context.choose_workers(options["workers"], here.cores)
        status = 0
        try:
            if method == "label-curve":
                found = found_by_label_curve(context, run_dir, numbers, options["splits"] or 5)
            elif method == "segment":
                found = found_by_segment(context, run_dir, images, options)
            elif method == "label-free":
                found = found_by_label_free(context, run_dir, options)
            else:
                found = found_by(context, method, run_dir, numbers, shares, options)
        except TrainingStoppedError as stopped:
            found, status = str(stopped), 128 + stopped.signal
    if here.is_first:
        say(found)
        say_how_to_track(run_dir)
    return status
