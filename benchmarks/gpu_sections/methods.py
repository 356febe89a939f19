"""Every registered method on this device: its certificate in one process."""

import multiprocessing
import os
from collections.abc import Iterator
from typing import Any

from gpu_sections.here import Here, Row, config_of
from gpu_sections.verification import checks_row
from simclr_dist.config import Recipe
from simclr_dist.config.registry import METHODS, method_class, method_keys
from simclr_dist.distributed.processes import Processes
from simclr_dist.errors import first_line
from simclr_dist.methods.base import Method
from simclr_dist.models.kernels import set_kernels
from simclr_dist.verification.certificate import certify

_CONTEXT = multiprocessing.get_context("fork")


def rows(here: Here) -> Iterator[Row]:
    """Side by side, as nothing here is timed, but no more than the cores bear: each compiles its programs."""
    names = here.size(list(METHODS), ["moco"])
    begun, turns = [], _CONTEXT.Semaphore(max(1, len(os.sched_getaffinity(0)) // 2))
    for name in names:
        reader, writer = _CONTEXT.Pipe(duplex=False)
        process = _CONTEXT.Process(target=_certified, args=(here, name, turns, writer))
        process.start()
        writer.close()
        begun.append((name, process, reader))
    for name, process, reader in begun:
        try:
            found: Any = reader.recv()
        except EOFError:
            found = "it ended without a word"
        process.join()
        if isinstance(found, str):
            yield Row(name, f"fails: {found}", {}, "all", False)
        else:
            yield checks_row(name, found)


def _certified(here: Here, name: str, turns: Any, results: Any) -> None:
    try:
        with turns:
            set_kernels(deterministic=True)
            results.send([tuple(check) for check in certify(recipe_of(name), Processes(), here.device)])
    except Exception as error:  # one method's failure is one row
        results.send(f"{type(error).__name__}: {first_line(error)}"[:300])


def recipe_of(name: str) -> Recipe:
    """A small recipe of the method, whose views all have a size that 32 pixels bear."""
    config = config_of("resnet18", 32, 32, stem="small")
    recipe = config.recipe
    of: type[Method] = method_class(name)  # type: ignore[assignment]
    recipe.method = of.small(method_keys(name), recipe.global_batch_images)
    recipe.views = of.views(recipe.method)
    for group in recipe.views.values():
        group.size = min(group.size, 16)
    config.check()
    return recipe
