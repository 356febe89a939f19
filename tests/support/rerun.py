"""A recorder for a CPU, which has no graphs: what is recorded is called again, and its results are brought to their
place. What a recording must get right beside the graphs themselves can so be proved without a GPU."""

from collections.abc import Callable

from torch import Tensor


class Rerun:
    """As ``simclr_dist.training.recorded.CudaRecorder``."""

    def __init__(self) -> None:
        self.replays = 0
        """How often something was replayed."""

    def warm_up(self, function: Callable[[], object]) -> None:
        function()

    def record(self, function: Callable[[], list[Tensor]]) -> tuple[list[Tensor], Callable[[], None]]:
        places = function()

        def replay() -> None:
            self.replays += 1
            values = [value.detach().clone() for value in function()]
            for place, value in zip(places, values, strict=True):
                place.detach().copy_(value)

        return places, replay
