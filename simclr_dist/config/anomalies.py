"""What a recipe does when its numbers go wrong. It decides what is computed from there on, so it is the recipe's."""

from dataclasses import dataclass
from typing import Any

from simclr_dist.config.fields import number, one_of


@dataclass(kw_only=True)
class Anomalies:
    on_not_finite: str = one_of("stop", ("stop", "skip", "go_back"))
    """When the loss or the gradient of a step is not finite. stop: the run ends, saved as it was before the step. skip:
    the step is done, and changes nothing. go_back: weights and optimizer are again those of the last rollback point,
    and the run resumes with the next step, past the images that led there."""
    on_jump: str = one_of("warn", ("warn", "stop", "skip", "go_back"))
    """When the loss jumps. warn: one line where a jump begins, and the run continues. The others as `on_not_finite`."""
    on_collapse: str = one_of("warn", ("warn", "stop", "go_back"))
    """When the embeddings have collapsed to nearly one point. As `on_jump`."""
    window_steps: int = number(100, low=10)
    """Steps that a loss is compared with; and steps without a break that make a collapse."""
    jump_deviations: float = number(6.0, above=0.0)
    """A loss jumps when it is more than this many deviations above the median of the window. A deviation is 1.4826
    times the median absolute deviation, at least 1 % of the median. Nothing jumps until the window is full."""
    collapse_below: float = number(0.1, low=0.0, high=1.0)
    """After the warm-up, the method's collapse metric (`embedding_std`, say) below this all through a window is a
    collapse. 1: the embeddings fill their space, 0: they are one point."""
    max_skipped_steps: int = number(10, low=0)
    """How many steps a run may skip in all; at the next one it stops."""
    max_returns: int = number(3, low=0)
    """How often a run may go back in all; at the next time it stops."""
    rollback_every_steps: int = number(0, low=0)
    """Steps between rollback points, the states that go_back goes back to; 0: an epoch's. None is taken while the loss
    jumps or the embeddings are collapsing. A checkpoint holds the rollback point too, and is twice as large."""

    @property
    def needs_rollback(self) -> bool:
        """Whether something makes the run go back."""
        return "go_back" in (self.on_not_finite, self.on_jump, self.on_collapse)


def may_change(key: str, there: Any, here: Any) -> bool:
    """Whether a run that has come so far under ``there`` would have come along the same way under ``here``.

    ``key`` of :class:`Anomalies`. A run that would have stopped has not: what it does instead of stopping may change,
    except to what needs a rollback point from earlier on, and so may a limit that it has not reached.
    """
    if key.startswith("on_"):
        return bool(there == "stop" and here != "go_back")
    return key.startswith("max_") and bool(here > there)
