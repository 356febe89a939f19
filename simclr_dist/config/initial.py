"""What a run begins with: weights that are there already, named by their digest, or random ones."""

import re
from dataclasses import dataclass

from simclr_dist.config.fields import number, one_of

ENCODER, ALL = "encoder", "all"
FRESH, KEPT = "fresh", "kept"


@dataclass(kw_only=True)
class Initial:
    """Keys of ``recipe.initial``."""

    weights: str = ""
    """What the run begins with: a run's folder (its newest checkpoint), a checkpoint, an export, or another project's
    file (docs/weights.md). Empty: random weights of recipe.seed. A place, not a content: that is `sha256`."""
    sha256: str = ""
    """Digest of what is taken from `weights`; another content is refused. Empty: found at the start and written into
    the run's config.yaml and checkpoints, with which every later start is compared."""
    what: str = one_of(ENCODER, (ENCODER, ALL))
    """`encoder`: the encoder alone, with its running statistics, also into second ones (teachers); heads start anew.
    `all`: heads, predictors, teachers and queues too, from a run of the same method."""
    optimizer: str = one_of(FRESH, (FRESH, KEPT))
    """`kept`: the optimizer's state (momentum) comes along; needs `what: all` and the same optimizer. `fresh`: zero."""
    steps_done: int = number(0, low=0)
    """Steps of this recipe that count as done: the run begins after them in its schedule, in the order of its images
    and in their views. `simclr-dist extend` sets it; needs `what: all`, of a run of the same images and batch size."""


def check_initial(initial: Initial) -> None:
    """Refuse combinations of these keys that say nothing.

    Raises:
        ValueError: naming the keys and the cure.
    """
    key = "recipe.initial"
    if not initial.weights and initial != Initial():
        raise ValueError(f"{key}: without {key}.weights its other keys say nothing; give the weights, or remove them")
    if initial.sha256 and not re.fullmatch("[0-9a-f]{64}", initial.sha256):
        raise ValueError(
            f"{key}.sha256: '{initial.sha256}' is no SHA-256 (64 of 0-9 and a-f); leave it out: the start finds it"
        )
    if initial.what != ALL:
        for name, set_to in (("optimizer", initial.optimizer == KEPT), ("steps_done", initial.steps_done > 0)):
            if set_to:
                raise ValueError(
                    f"{key}.{name}: {getattr(initial, name)} goes with all of a run; set {key}.what=all, or leave "
                    f"{key}.{name} out"
                )
