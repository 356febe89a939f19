"""The state that a run goes back to: in the memory of every process, and in every checkpoint."""

from typing import Any

from torch import Tensor

from simclr_dist.run.state_copy import StateCopy, mapped


class RollbackPoint:
    """A copy of what an update changes, taken every ``every_steps`` steps of the recipe; the newest is kept.

    In the checkpoint, because a run that is started again must go back to the same state as one that was not: a file of
    its own may be missing or damaged while the checkpoint is intact.
    """

    def __init__(self, trained: dict[str, Any], every_steps: int) -> None:
        """``trained``: name -> module, optimizer, ..., each with ``state_dict`` and ``load_state_dict``."""
        self.trained, self.every_steps = trained, every_steps
        self._copy = StateCopy()
        self._taken: dict[str, Any] = {}

    def take_when_due(self, steps_done: int, *, is_healthy: bool = True) -> None:
        """Copy the state after ``steps_done`` when a rollback point belongs there.

        The first one belongs where the run begins, whatever recipe.initial.steps_done says.
        """
        if not self._taken or (is_healthy and steps_done % self.every_steps == 0):
            states = {name: target.state_dict() for name, target in self.trained.items()}
            self._taken = {"step": steps_done, **self._copy.of(states)}

    def go_back(self) -> int:
        """Bring the state back; the step after which it was taken."""
        for name, target in self.trained.items():
            # Optimizers take the tensors that they are given, and the next step would change the rollback point's.
            target.load_state_dict(mapped(self._taken[name], Tensor.clone))
        step: int = self._taken["step"]
        return step

    def state_dict(self) -> dict[str, Any]:
        return self._taken

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._taken = state
