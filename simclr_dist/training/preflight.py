"""What must hold before anything is built: whether these processes can compute this recipe."""

import os
import shutil
import sysconfig
from pathlib import Path

import torch

from simclr_dist.config import Config, Machine
from simclr_dist.errors import UserError
from simclr_dist.models.statistics_group import divide_batch_norm
from simclr_dist.run.trackers import refuse_missing, refuse_run_dir


def check_machine(config: Config, processes: int) -> None:
    """Refuse a machine that cannot compute the recipe, before anything starts.

    Raises:
        UserError: naming the keys and the cure.
    """
    recipe, machine = config.recipe, config.machine
    batch = recipe.global_batch_images
    if batch % processes:
        fitting = max(count for count in range(1, processes + 1) if batch % count == 0)
        raise UserError(
            f"recipe.global_batch_images: {batch} images cannot be shared equally by {processes} processes; "
            f"start {fitting}, or another number that divides {batch}"
        )
    share, chunk = batch // processes, machine.images_per_chunk
    if chunk and share % chunk:
        raise UserError(
            f"machine.images_per_chunk: {chunk} does not divide a process's share of {share} images; take one that does"
        )
    try:
        divide_batch_norm(recipe.batch_norm_group_images, batch, processes, chunk_images=chunk, make_groups=False)
    except ValueError as error:
        raise UserError(str(error)) from error
    if machine.compile and machine.recompute != "none":
        raise UserError(
            f"machine.recompute: torch.compile cannot trace what is computed again ('{machine.recompute}'); set "
            "machine.recompute=none, with machine.images_per_chunk where memory is short, or machine.compile=false"
        )
    _check_compiler(machine)
    refuse_missing(machine.tracking)
    refuse_run_dir(Path(machine.run_dir), machine.tracking)


def fits(config: Config, processes: int) -> bool:
    """Whether so many processes can compute the recipe."""
    try:
        check_machine(config, processes)
    except UserError:
        return False
    return True


def _check_compiler(machine: Machine) -> None:
    """For a CPU torch writes C++; for a GPU Triton writes a launcher of each kernel in C, with Python's headers."""
    if not machine.compile:
        return
    on_gpu = machine.device != "cpu" and torch.cuda.is_available()
    where, variable, usual = ("a GPU", "CC", "gcc clang") if on_gpu else ("the CPU", "CXX", "g++")
    wanted = os.environ.get(variable) or usual
    if not any(map(shutil.which, wanted.split())):
        raise UserError(
            f"machine.compile: torch.compile needs a {'C' if on_gpu else 'C++'} compiler on {where} and "
            f"'{wanted.replace(' ', ' or ')}' is not installed; install {usual.split()[0]} or set machine.compile=false"
        )
    headers = Path(sysconfig.get_path("include"))
    if on_gpu and not (headers / "Python.h").exists():
        raise UserError(
            f"machine.compile: torch.compile needs Python's headers on a GPU and {headers}/Python.h is not there; "
            "install them (python3-dev) or set machine.compile=false"
        )
