"""From a folder of pictures to a config that trains on it here: look, measure, choose, write, say what comes next."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from simclr_dist.config import Config
from simclr_dist.data.loading.batches import build_batches
from simclr_dist.data.loading.order import build_order
from simclr_dist.data.loading.throughput import stage_seconds
from simclr_dist.data.preview import contact_sheet
from simclr_dist.data.sources.base import BrokenImageError, ImageSource, Subset
from simclr_dist.data.sources.files import FileSource
from simclr_dist.errors import UserError
from simclr_dist.models.kernels import set_kernels
from simclr_dist.progress_bar import ticking
from simclr_dist.run.same_recipe import is_begun
from simclr_dist.starting.choices import Choice, Found, Rung, batch_images, choices, chosen_rung, host_for, rungs
from simclr_dist.starting.pictures import Pictures, look_at_pictures, mean_pixels
from simclr_dist.starting.speed import Host, Timing, host_here, time_step
from simclr_dist.starting.written import as_yaml, loaded
from simclr_dist.terminal import printable, typed
from simclr_dist.units import show_bytes

_TIMED_IMAGES = {"cpu": 32, "cuda": 128}
_READ_IMAGES = 16
_ROWS = 8


def write_first_recipe(folder: Path, out: Path, hours: float, say: Callable[[str], object]) -> None:
    """Write a config for the pictures of ``folder`` to ``out``, and beside it a picture of its views.

    Args:
        folder: the pictures.
        out: the config; the picture has its name and the suffix .png.
        hours: how long pretraining may take here.
        say: what is called with each line for the user.

    Raises:
        UserError: one of the files is there or cannot be written, or there are no pictures to train on.
    """
    sheet = out.with_suffix(".png")
    with ticking(f"looking at the pictures in {printable(str(folder))}"):
        pictures, source = look_at_pictures(folder.resolve() if ".." in folder.parts else folder.absolute())
    host = host_for(pictures.count, host_here())
    heading = [*described(pictures), _host_line(host)]
    for line in heading:
        say(line)
    set_kernels(deterministic=True)
    torch.set_num_threads(max(1, host.cores // max(1, host.gpus)))
    start = _as_config(pictures, host, rungs(pictures, host)[0])
    with ticking("making the first views (at the very first start loops are compiled)"):
        read_seconds = _read_seconds(start, source, pictures)
    found = Found(pictures=pictures, host=host, hours=hours, read_seconds=read_seconds)
    rung, timing = chosen_rung(found, lambda rung: _measured(found, rung))
    chosen = choices(found, rung, timing)
    text = as_yaml(chosen, ["Written by simclr-dist init. What was found:", *(f"  {line}" for line in heading)])
    config = loaded(text, chosen)
    _write(out, sheet, text, config, source)
    say(f"wrote {printable(str(out))}, each key with its reason, and {printable(str(sheet))}, views of the pictures")
    for line in next_commands(out, pictures, host):
        say(line)


def described(pictures: Pictures) -> list[str]:
    """What was found, in lines of text."""
    low, middle, high = pictures.short_sides
    classes = ", ".join(f"{printable(name)} {count:,}" for name, count in list(pictures.classes.items())[:8])
    more = f", and {len(pictures.classes) - 8} more" if len(pictures.classes) > 8 else ""
    lines = [
        f"{pictures.count:,} pictures to pretrain on, "
        + (f"{len(pictures.classes)} classes: {classes}{more}" if classes else "no classes (not in folders)"),
        f"{pictures.held_out:,} pictures to evaluate on" if pictures.held_out else "no held-out split to evaluate on",
        f"short sides {low:,} to {high:,} px, median {middle:,} (headers of {pictures.looked_at:,} read)",
        f"{'grey' if pictures.grey else 'coloured'}; {pictures.alpha:.0%} with transparency, {pictures.turned:.0%} "
        "with an EXIF orientation that turns them",
    ]
    lines += pictures.remarks
    if pictures.unreadable:
        lines.append(f"{len(pictures.unreadable)} cannot be read, the first: {pictures.unreadable[0]}")
    return lines


def next_commands(out: Path, pictures: Pictures, host: Host) -> list[str]:
    """What to type now, with what each is for."""
    run = Path("runs") / out.stem
    several = ("--processes", host.gpus) if host.gpus > 1 else ()
    commands = [
        (typed("preview", out, "--out", "views.png"), "look at the views again after a change"),
        (typed("pretrain", out, *several), "again to resume after a stop"),
        (typed("evaluate", run), "few labels, beside raw pixels and the untrained encoder"),
        (typed("report", run), "one HTML page"),
    ]
    why_not = ""
    if len(pictures.classes) < 2:
        why_not = "its pictures are in no class folders" if not pictures.classes else "it has one class alone"
    elif not pictures.held_out and max(pictures.classes.values()) < 2:
        why_not = "it has one picture a class"
    if why_not:
        commands[2] = (typed("evaluate", run, "--on", "FOLDER"), f"FOLDER with labels: {why_not}")
    width = max(len(command) for command, _ in commands)
    lines = ["next:", *(f"  {command:{width}}  # {what}" for command, what in commands)]
    if is_begun(run):
        lines.append(f"{run} holds a run already: pretrain refuses another recipe there; set machine.run_dir in {out}")
    return lines


def _host_line(host: Host) -> str:
    found = f"this machine: {host.cores} cores, "
    found += f"{host.gpus} GPUs ({host.gpu}, {show_bytes(host.gpu_bytes)} free)" if host.gpus else "no GPU"
    if host.load > host.cores:
        found += f"; other programs keep it busy (load {host.load:.0f}), so the speeds measured now are low"
    return found


def _as_config(pictures: Pictures, host: Host, rung: Rung) -> Config:
    """What a rung would train, for measuring."""
    found = Found(pictures=pictures, host=host, hours=1, read_seconds=1)
    chosen = [*choices(found, rung, Timing(seconds_an_image=1, bytes_an_image=0))]
    chosen.append(Choice("machine.device", host.device, "measured"))
    return loaded(as_yaml(chosen), chosen)


def _read_seconds(config: Config, source: FileSource, pictures: Pictures) -> float:
    """Of one core, for an image and its views; loops that are not compiled yet are.

    A few pictures are read. Where those of the set are larger in the mean (a few posters among many icons), reading
    takes the longer.
    """
    batches = build_batches(config, source, build_order(config.recipe, len(source)), 0, 1)
    count = min(_READ_IMAGES, config.recipe.global_batch_images)
    seconds = stage_seconds(batches, count)
    read = mean_pixels(source, batches.order.samples(0)[:count].tolist())
    seconds["read and decode"] *= max(1.0, pictures.mean_pixels / max(1.0, read))
    return sum(seconds.values())


def _measured(found: Found, rung: Rung) -> Timing:
    config = _as_config(found.pictures, found.host, rung)
    share = batch_images(found.pictures.count, found.host) // max(1, found.host.gpus)
    with ticking(f"timing steps of {rung.encoder}, width {rung.width:g}, at {rung.size} px"):
        return time_step(config, min(share, _TIMED_IMAGES[found.host.device]))


def _write(out: Path, sheet: Path, text: str, config: Config, source: ImageSource) -> None:
    with ticking("drawing views"):
        picture = _drawn(source, config)
    try:
        with out.open("xb") as file:
            file.write(text.encode(errors="surrogateescape"))
        with sheet.open("xb") as file:
            Image.fromarray(picture.permute(1, 2, 0).numpy()).save(file, "PNG")
    except FileExistsError as error:
        raise UserError(f"{printable(str(error.filename))}: is there already; give another name with --out") from error
    except OSError as error:
        raise UserError(
            f"--out: {printable(str(out))} cannot be written: {error.strerror}; give another folder"
        ) from error


def _drawn(source: ImageSource, config: Config) -> torch.Tensor:
    whole = readable(source, _ROWS)
    if not len(whole):
        raise UserError(f"{printable(config.recipe.data.path)}: no views can be drawn, the pictures tried are broken")
    return contact_sheet(whole, config.recipe, len(whole), renderer=config.machine.renderer)


def readable(source: ImageSource, most: int) -> Subset:
    """Up to ``most`` pictures, spread over the set, that can be decoded; tried are ten times as many."""
    found: list[int] = []
    for sample in np.random.default_rng(0).permutation(len(source))[: 10 * most].tolist():
        if len(found) < most:
            with suppress(BrokenImageError):
                source.read(sample)
                found.append(sample)
    return Subset(source, np.array(sorted(found), dtype=np.int64))
