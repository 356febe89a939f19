"""``simclr-dist doctor``: what a run would find here."""

from pathlib import Path

import click

from simclr_dist.cli.options import PathType, with_debug
from simclr_dist.launch.relaunch import relaunch, stop_with_launcher
from simclr_dist.terminal import say


@click.command()
@click.option("--dir", "folder", type=PathType(), default=".", help="Whose file system to try.")
@click.option("--processes", type=click.IntRange(min=1), help="Start this many processes and try their collectives.")
@click.option("--device", type=click.Choice(("auto", "cpu", "cuda")), default="auto", show_default=True)
@click.option("--json", "json_file", type=PathType(dir_okay=False), help="Write the findings too.")
@with_debug
def doctor(folder: Path, processes: int | None, device: str, json_file: Path | None) -> int:
    """Say what a run would find here, and the cure of what is wrong; status 1 when something would stop a run.

    Versions, cores, memory, GPUs, limits, SLURM and the folder's file system; with --processes, or under torchrun and
    srun, also hosts, clocks, collectives and whether all see the same folder.
    """
    from simclr_dist.doctor.examination import examine
    from simclr_dist.doctor.versions import loads
    from simclr_dist.storage.own_output import refuse_other_json

    if json_file is not None:
        refuse_other_json(json_file, "findings", "--json")
    if loads("torch"):
        if processes and processes > 1:
            words = ["--dir", str(folder), "--device", device, *(["--json", str(json_file)] if json_file else [])]
            return relaunch(processes, ["doctor", *words], device)
        stop_with_launcher()
    text, status = examine(folder, device, json_file)
    if text:
        say(text)
    return status
