"""Whether all processes were given the same config, asked before anything else that they do together."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from simclr_dist.config import Config
from simclr_dist.config.loading import fields_of
from simclr_dist.distributed.collectives import gather_objects, process_count
from simclr_dist.distributed.launchers import host_here
from simclr_dist.errors import AgreedError, UserError
from simclr_dist.run.same_recipe import LOCATION_KEYS

# Of the machine half only what decides which collectives are called, and of what numbers: the rest may differ.
# Gradients that float16's scale multiplies are none to add to others; recomputed batch norm meets other processes once
# more; with debug_numerics a step that went wrong is not computed again. In another layout an update is rounded
# otherwise, and weights that must be equal to the bit part.
_OF_ALL = (
    "precision",
    "images_per_chunk",
    "recompute",
    "channels_last",
    "debug_numerics",
    "save_every_steps",
    "keep_every_steps",
    "keep_best",
    "stop_after_failed_saves",
    "stop_after_steps",
    "compare_every_steps",
    "evaluate_every_epochs",
    "max_broken_image_share",
)


def refuse_other_configs(config: Config) -> None:
    """Compare the config of all processes: with another one a process would wait for what nobody else does.

    Raises:
        UserError: on all processes, naming the keys that differ, and on which.
    """
    if process_count() == 1:
        return
    own = _of_all(config)
    everyone = gather_objects(own, label="the comparison of configs")
    texts = [str(each) for each in everyone]
    if len(set(texts)) > 1:
        hosts = gather_objects(host_here())
        raise AgreedError(
            f"the config of the processes differs{differing_names(everyone)}: {groups(texts, hosts)}. "
            "Give all processes the same config"
        )


def refuse_to_join(config: Config, first: Callable[[str], str]) -> None:
    """Compare a process that comes to a run with what this was begun with, before the others take it in.

    ``first``: given what this process says, what the first of the run's has said.

    Raises:
        UserError: it has another config; the run goes on without it.
    """
    own = {name: str(value) for name, value in _of_all(config).items()}
    of_run = json.loads(first(json.dumps(own)))
    digest = "recipe.initial.sha256"
    if not (own[digest] and of_run[digest]):  # found when the weights are read
        own[digest] = of_run[digest]
    if names := differing_names([of_run, own]):
        raise UserError(
            f"the run goes on with another config than this process was started with{names}: start it with that, or "
            "stop the run and start all processes anew"
        )


def _of_all(config: Config) -> dict[str, Any]:
    """What must be the same on all processes."""
    recipe = {f"recipe.{key}": value for key, value, _ in fields_of(config.recipe) if key not in LOCATION_KEYS}
    return recipe | {f"machine.{key}": getattr(config.machine, key) for key in _OF_ALL}


def differing_names(everyone: Sequence[dict[str, Any]]) -> str:
    """In brackets, some of the names whose values are not the same on all processes; "" when all are."""
    names = [name for name in everyone[0] if len({str(each.get(name)) for each in everyone}) > 1]
    more = f" and {len(names) - 2} more" if len(names) > 2 else ""
    return f" ({', '.join(names[:2])}{more})" if names else ""


def groups(values: Sequence[Any], hosts: Sequence[str]) -> str:
    """Which processes stand alone against the majority, or which stand against each other."""
    of_value: dict[Any, list[int]] = {}
    for rank, value in enumerate(values):
        of_value.setdefault(value, []).append(rank)
    most, count = Counter(values).most_common(1)[0]
    if 2 * count > len(values):
        odd = [f"{rank} on {hosts[rank]}" for rank, value in enumerate(values) if value != most]
        return f"process {', '.join(odd)} against the other {count}"
    sides = (", ".join(f"{rank} on {hosts[rank]}" for rank in ranks) for ranks in of_value.values())
    return f"processes disagree: {' | '.join(sides)}"
