"""What the processes tell each other at the start of a step, and what each brings to it."""

from collections.abc import Generator
from typing import NamedTuple

from simclr_dist.data.loading.batch import Batch
from simclr_dist.distributed.watchdog import progress
from simclr_dist.errors import UserError
from simclr_dist.log import log


class Agreed(NamedTuple):
    """What all processes know at the start of a step, each the largest of any process: one small collective."""

    signal: float
    """Number of the stop signal that one of them has received; 0: none."""
    broken: float
    """Images of the batch that could not be read."""
    waited: float
    """Seconds that the slowest waited for its batch."""
    failed_saves: float
    run_is_lost: float
    """1 when another process has taken the run over."""
    can_grow: float
    """1 when more processes could take part."""
    no_batch: float
    """1 when one of them has no batch, as it cannot be made or the run stops before it is."""


def next_batch(batches: Generator[Batch, None, None]) -> tuple[Batch | None, str | None]:
    """The next batch; else None and why it cannot be made (None: the run stops)."""
    try:
        return next(batches, None), None
    except UserError as error:
        return None, str(error)


def say_received(name: str) -> None:
    """What a stop signal leads to, on the terminal and in the log."""
    step = progress.current().step
    log.warning(
        "%s received: %s", name, f"finishing step {step}, then saving" if step else "the run stops at its start"
    )
