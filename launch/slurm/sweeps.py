"""The configs of a run, or of the runs of a sweep, as a job is to find them from anywhere."""

import itertools
import re
from collections.abc import Sequence
from pathlib import Path

from simclr_dist.config import Config, load_config
from simclr_dist.errors import UserError
from simclr_dist.storage.paths import expanded


def runs_of(
    config: str, overrides: Sequence[str], sweep: Sequence[str] = (), base: Path | None = None
) -> tuple[Path, tuple[Config, ...]]:
    """The configs to run, with absolute paths, and the folder over them; one config without a sweep.

    Args:
        config: as ``pretrain`` takes it.
        overrides: likewise.
        sweep: ``key=a,b,c``; several make all combinations, each in a folder named by its values.
        base: the folder, whatever the config says; None: what it says.

    Raises:
        UserError: a config is wrong, or a sweep has no values.
    """
    choices = [_values(word) for word in sweep]
    found, folders = [], set()
    for chosen in itertools.product(*choices):
        loaded = load_config(config, [*overrides, *(f"{key}={value}" for key, value in chosen)])
        folders.add(loaded.machine.run_dir)
        folder = base or Path(loaded.machine.run_dir).absolute()
        # A name that paths can have and lists of folders, too (quoting.for_list).
        name = re.sub("[/:,]", "_", "_".join(f"{key.rpartition('.')[2]}={value}" for key, value in chosen))
        loaded.machine.run_dir = str(folder / name)
        data, initial = loaded.recipe.data, loaded.recipe.initial
        data.path = _from_anywhere("recipe.data.path", data.path)
        initial.weights = _from_anywhere("recipe.initial.weights", initial.weights)
        found.append(loaded)
    if len(folders) > 1:
        raise UserError(
            f"--sweep: machine.run_dir is the one folder over all runs, and is {' and '.join(sorted(folders)[:2])} by "
            "the swept values; give one that does not depend on them"
        )
    if len({each.machine.run_dir for each in found}) < len(found):
        raise UserError("--sweep: two runs would have the same folder; give each value once, and keys of other names")
    return folder, tuple(found)


def _values(word: str) -> list[tuple[str, str]]:
    key, equals, values = word.partition("=")
    if not equals or not key or not all(values.split(",")):
        raise UserError(f"--sweep: '{word}' must be KEY=VALUE,VALUE,... such as recipe.method.temperature=0.1,0.5")
    return [(key, value) for value in values.split(",")]


def _from_anywhere(key: str, place: str) -> str:
    return str(expanded(key, place).absolute()) if place else place
