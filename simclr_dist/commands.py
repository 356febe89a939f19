"""``simclr-dist config``, ``preview``, ``plan``, ``verify`` and ``doctor``: looking before a run."""

from pathlib import Path
from typing import Any

import click

from simclr_dist.config import load_config, to_yaml
from simclr_dist.errors import UserError, first_line
from simclr_dist.options import with_config, with_debug
from simclr_dist.starting import in_processes, run_in_processes, stop_with_launcher


@click.command("config")
@click.argument("config", metavar="[CONFIG]", required=False)
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--explain", is_flag=True, help="Every key with its type, default and documentation instead.")
@with_debug
def show_config(config: str | None, overrides: tuple[str, ...], explain: bool) -> None:
    """Print the resolved config."""
    if explain:
        from simclr_dist.config.explain import explain as explained

        click.echo(explained())
    elif config:
        click.echo(to_yaml(load_config(config, overrides)), nl=False)
    else:
        raise UserError("config: give a CONFIG, or --explain")


@click.command()
@with_config
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), default="views.png", show_default=True)
@click.option("--images", type=click.IntRange(min=1), default=8, show_default=True, help="Rows of the picture.")
@with_debug
def preview(config: str, overrides: tuple[str, ...], out: Path, images: int) -> None:
    """Draw images and pairs of their views, as the run will see them, into a PNG."""
    loaded = load_config(config, overrides)
    from PIL import Image

    from simclr_dist.data.preview import contact_sheet
    from simclr_dist.data.sources import BrokenImageError, open_source

    try:
        sheet = contact_sheet(open_source(loaded.recipe.data), loaded.recipe, images, renderer=loaded.machine.renderer)
        Image.fromarray(sheet.permute(1, 2, 0).numpy()).save(out)
    except BrokenImageError as error:
        raise UserError(f"cannot preview a broken image: {error}") from error
    except (OSError, ValueError) as error:  # ValueError: Pillow knows no format of that name
        raise UserError(
            f"--out: cannot write {out}: {first_line(error)}; give a PNG in a folder that is there"
        ) from error
    click.echo(f"{out}: each row an image and three pairs of its views")


@click.command()
@with_config
@click.option("--gpus", type=click.IntRange(min=1), required=True, help="GPUs of the run, one process each.")
@click.option("--gpu-memory", required=True, metavar="SIZE", help="Memory of a GPU, such as 80GB or 80GiB.")
@click.option("--nodes", type=click.IntRange(min=1), help="Machines that the GPUs are in; else 8 GPUs a node.")
@click.option("--bandwidth", default="200Gb/s", show_default=True, help="Between two nodes, one way (b: bits).")
@click.option("--node-bandwidth", default="200GB/s", show_default=True, help="Between two GPUs of a node, one way.")
@click.option("--images", metavar="COUNT", help="Images of the data set, when it is not here.")
@click.option("--flops-per-second", metavar="RATE", help="Sustained by one GPU, such as 60T; else a usual rate.")
@click.option("--suggest", is_flag=True, help="Print the machine half that fits, as YAML.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write a picture (PNG) too.")
@with_debug
def plan(config: str, overrides: tuple[str, ...], **options: Any) -> None:
    """Predict, without a GPU, whether the run fits, what it sends and how long it might take."""
    from simclr_dist.planning.command import plan_run

    click.echo(plan_run(load_config(config, overrides), **options))


@click.command()
@click.argument("config", metavar="[CONFIG]", default="digits_demo")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--processes", type=click.IntRange(min=1), help="Start this many processes on this machine.")
@with_debug
def verify(config: str, overrides: tuple[str, ...], processes: int | None) -> int:
    """Check on these machines that the trajectory depends on the recipe alone; status 1 when a promise fails.

    Gradients, batch norm, LARS, chunks, sample order and views against a float64 reference in one process. Runs under
    torchrun as pretrain does.
    """
    loaded = load_config(config, overrides)
    if processes and processes > 1:
        return run_in_processes(processes, loaded, ["verify", config, *overrides])
    stop_with_launcher()
    from simclr_dist.checks import check_machine
    from simclr_dist.distributed.processes import Processes, choose_device, process_group
    from simclr_dist.verification.certificate import Certificate, table

    here = Processes.from_environment()
    check_machine(loaded, here.count)
    device = choose_device(loaded.machine.device, here.local_rank)
    with process_group(here, device):
        rows = Certificate(loaded.recipe, here, device).rows()
    if here.is_first:
        click.echo(table(rows, f"{here.count} processes, {device.type}"))
    return 0 if all(row.holds for row in rows) else 1


@click.command()
@click.option("--dir", "folder", type=click.Path(path_type=Path), default=".", help="Whose file system to try.")
@click.option("--processes", type=click.IntRange(min=1), help="Start this many processes and try their collectives.")
@click.option("--device", type=click.Choice(("auto", "cpu", "cuda")), default="auto", show_default=True)
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="Write the findings too.")
@with_debug
def doctor(folder: Path, processes: int | None, device: str, json_file: Path | None) -> int:
    """Say what a run would find here, and the cure of what is wrong; status 1 when something would stop a run.

    Versions, cores, memory, GPUs, limits, SLURM and the folder's file system; with --processes, or under torchrun and
    srun, also hosts, clocks, collectives and whether all see the same folder.
    """
    from simclr_dist.doctor.command import examine
    from simclr_dist.doctor.versions import loads

    if loads("torch"):
        if processes and processes > 1:
            words = ["--dir", str(folder), "--device", device, *(["--json", str(json_file)] if json_file else [])]
            return in_processes(processes, ["doctor", *words], device)
        stop_with_launcher()
    text, status = examine(folder, device, json_file)
    if text:
        click.echo(text)
    return status
