"""The folders and files that a config names."""

import re

from simclr_dist.config.schema import Config
from simclr_dist.errors import UserError
from simclr_dist.storage.paths import expanded


def refuse_variables(config: Config) -> None:
    """A shell replaces $HOME, a config does not: a folder of that very name is meant only where it is there already."""
    places = {
        "machine.run_dir": config.machine.run_dir,
        "recipe.data.path": config.recipe.data.path,
        "recipe.initial.weights": config.recipe.initial.weights,
    }
    for key, text in places.items():
        found = re.search(r"\$\{?([A-Za-z_]\w*)", text)
        if found and not expanded(key, text).exists():
            raise UserError(
                f"{key}: '{text}': ${found[1]} is not replaced here; give the path itself or, in a file, "
                f"${{oc.env:{found[1]}}} (a folder of that very name must be there already)"
            )
