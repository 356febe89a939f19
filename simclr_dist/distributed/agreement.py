"""What all processes must do together or not at all: fail, decide."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from simclr_dist.distributed.collectives import from_first, gather_objects, process_rank
from simclr_dist.errors import AgreedError, UserError

Result = TypeVar("Result")


@contextmanager
def all_or_none() -> Iterator[None]:
    """When the block raises a UserError on any process, all processes raise the first one.

    The block must hold no collective: a process that failed would be missing there.
    """
    failure: UserError | None = None
    try:
        yield
    except UserError as error:
        failure = error
    own = str(failure) if failure else None
    messages = [message for message in gather_objects(own, label="the agreement that none failed") if message]
    if messages:
        raise AgreedError(str(messages[0])) from failure


def decided_by_first(decide: Callable[[], Result]) -> Result:
    """Rank 0's answer (a small picklable object) on every process; a UserError there is raised everywhere."""
    value: Any = None
    message: str | None = None
    if process_rank() == 0:
        try:
            value = decide()
        except UserError as error:
            message = str(error)
    value, message = from_first((value, message), label="a decision of process 0")
    if message is not None:
        raise AgreedError(message)
    decided: Result = value
    return decided
