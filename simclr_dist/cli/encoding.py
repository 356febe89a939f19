"""What the commands share that put images through an encoder: options, the processes, where features are kept."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from simclr_dist.cli.options import PathType
from simclr_dist.config.fields import MOST_PIXELS, MOST_WORKERS
from simclr_dist.config.recipe import SOURCES, Data
from simclr_dist.errors import UserError, nearest
from simclr_dist.terminal import say

if TYPE_CHECKING:
    import torch

    from simclr_dist.data.sources.base import ImageSource
    from simclr_dist.evaluation.features import Extraction
    from simclr_dist.weights.loaded import LoadedEncoder

at_least_1 = click.IntRange(1, 1_000_000)
_path = PathType()


def with_extraction(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options of every extraction."""
    for option in (
        click.option(
            "--workers", type=click.IntRange(-1, MOST_WORKERS), default=-1, help="That read images.  [default: by size]"
        ),
        click.option("--batch-at-once", type=at_least_1, default=64, show_default=True, help="Images a forward pass."),
        click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True),
        click.option("--processes", type=at_least_1, help="Start this many processes on this machine."),
    ):
        function = option(function)
    return function


def with_images(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say which images of FOLDER are meant, and where their features are kept."""
    for option in (
        click.option("--blocks", type=_path, help="Where features are kept.  [default: RUN/features]"),
        click.option(
            "--image-size", type=click.IntRange(8, MOST_PIXELS), help="Side in pixels.  [default: the encoder's]"
        ),
        click.option(
            "--split", type=click.Choice(["pretrain", "train", "test"]),
            help="Of FOLDER's splits.  [default: a folder's images are all taken, of other sources pretrain]",
        ),
        click.option(
            "--source", default="folder", show_default=True,
            help="What FOLDER holds: a recipe.data.source; FOLDER is - for one without files.",
        ),
    ):  # fmt: skip
        function = option(function)
    return function


class Here(NamedTuple):
    """This process."""

    is_first: bool
    device: "torch.device"
    cores: int
    """Of its own."""


@contextmanager
def evaluating_processes(requested: str) -> Iterator[Here]:
    """The process group of a command that evaluates; kernels and threads set so that processes change no bit."""
    import torch

    from simclr_dist.distributed.cores import own_cores
    from simclr_dist.distributed.devices import choose_device
    from simclr_dist.distributed.processes import Processes, process_group
    from simclr_dist.launch.relaunch import stop_with_launcher
    from simclr_dist.models.kernels import set_kernels

    here = Processes.from_environment()
    device = choose_device(requested, here.local_rank)
    if here.count > 1:
        stop_with_launcher()
    if here.count > 1 or device.type == "cuda":
        set_kernels(deterministic=True)
    with process_group(here, device):
        cores = own_cores()
        torch.set_num_threads(cores if here.count > 1 else torch.get_num_threads())
        yield Here(here.is_first, device, cores)


def given_options(command: click.Context) -> dict[str, Any]:
    """The options that stand on the command line, by name."""
    from_default = (click.core.ParameterSource.DEFAULT, None)
    names = [each.name or "" for each in command.command.params if isinstance(each, click.Option)]
    return {
        name: command.params[name]
        for name in names
        if name in command.params and command.get_parameter_source(name) not in from_default
    }


def start_in_processes(name: str, count: int, arguments: Sequence[str], given: dict[str, Any]) -> int:
    """The same command in ``count`` processes; its status."""
    from simclr_dist.launch.relaunch import relaunch

    words = [name]
    for key, value in given.items():
        option = key.replace("_", "-")
        if key == "processes":
            continue
        if isinstance(value, bool):
            words.append(f"--{option}" if value else f"--no-{option}")
        else:
            words += [f"--{option}", str(value)]
    words += ["--", *arguments]  # a name may begin as an option does
    return relaunch(count, words, given.get("device", "auto"))


def folder_of_results(run: Path) -> Path:
    """A run's folder; beside a file of weights a folder of its name."""
    return run if run.is_dir() else run.with_name(f"{run.name}.evaluation")


def open_images(
    run: Path, loaded: "LoadedEncoder", source: str, folder: str, split: str | None, size: int | None
) -> "tuple[ImageSource, Data]":
    """The images of a command with :func:`with_images`, read as ``loaded``, of ``run``, was trained to see them.

    Raises:
        UserError: there is no such source, or its images cannot be read.
    """
    from dataclasses import replace

    from simclr_dist.data.sources.named import open_source
    from simclr_dist.data.sources.shards.settings import shards_of_run
    from simclr_dist.data.sources.whole import open_whole

    if source not in SOURCES and ":" not in source:
        raise UserError(
            f"--source: no source '{source}'{nearest(source, list(SOURCES))}; there are {', '.join(SOURCES)}"
        )
    data = replace(loaded.recipe.data, source=source, path=folder, image_size=size or loaded.image_size)
    if notice := loaded.take_images(data.image_size):
        say(notice, err=True)
    if source == "folder" and split is None:
        return open_whole(data), data
    return open_source(data, shards_of_run(run), split or "pretrain"), data


def extraction(here: Here, run: Path, images: int, options: dict[str, Any]) -> "Extraction":
    """How features are computed: as ``evaluate`` does, broken images left out, and kept."""
    from simclr_dist.evaluation.features import Extraction, reading_workers

    return Extraction(
        batch_images=options["batch_at_once"],
        device=here.device,
        cache=options["blocks"] or folder_of_results(run) / "features",
        talks=here.is_first,
        label="features",
        workers=reading_workers(options["workers"], here.cores, images),
        leaves_out_broken=True,
    )


def say_what_is_used(loaded: "LoadedEncoder", images: "ImageSource", name: str) -> None:
    """Encoder and images, one line each, and what was taken for granted."""
    from simclr_dist.data.sources.summary import say_what_was_found, summary

    assumed = f"; assumed: {'; '.join(loaded.assumed)}" if loaded.assumed else ""
    say(f"encoder: {loaded.source}{assumed}", err=True)
    say_what_was_found(summary(images, name))
