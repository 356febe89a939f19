"""The traced steps of the plans of this room, each made once."""

from collections.abc import Iterator

import pytest

from simclr_dist.planning import memory
from simclr_dist.planning.traced_step import StepTrace, traced_step


@pytest.fixture(scope="session", autouse=True)
def _traced_once() -> Iterator[None]:
    """A trace is a function of what is asked for and takes seconds; many plans ask for the same ones."""
    traces: dict[str, StepTrace] = {}

    def once(*arguments: object) -> StepTrace:
        key = repr(arguments)
        if key not in traces:
            traces[key] = traced_step(*arguments)
        return traces[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "traced_step", once)
        yield
