"""Numbers that go wrong: found in every step, logged, and answered as ``recipe.anomalies`` says.

What is done about them is part of the recipe, so it depends on nothing but what the recipe computes: the losses of the
steps before stand in the checkpoint, and so does the state that a run goes back to. A step number is never used twice:
a run that goes back takes its weights from earlier and its next images from where it is (docs/design/anomalies.md).
"""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from simclr_dist.config.anomalies import Anomalies
from simclr_dist.config.metric import Metric
from simclr_dist.log import log
from simclr_dist.run.metrics_log import write_record

FILE = "anomalies.json"
NOT_FINITE, JUMP, COLLAPSE = "not finite", "jump", "collapse"
WARN, STOP, SKIP, GO_BACK = "warn", "stop", "skip", "go_back"
_LEAST_DEVIATION = 0.01  # of the median: a loss that hardly moves must not make jumps of its last digits
_KEPT = 200  # of what was found: a run of a million steps must not carry all of it in every checkpoint
_CURES = {
    NOT_FINITE: "a lower recipe.optimizer.base_learning_rate or a longer warm-up in another machine.run_dir may help",
    JUMP: "a lower recipe.optimizer.base_learning_rate in another machine.run_dir may help",
    COLLAPSE: "check the views (simclr-dist preview), the learning rate and the keys of recipe.method",
}


@dataclass(frozen=True)
class Anomaly:
    """What a step's numbers show, and what is done about it."""

    step: int
    kind: str
    message: str
    value: float | None
    """The loss, gradient norm or collapse metric that is wrong; None: not finite."""
    action: str
    limit: str = ""
    """The key whose limit makes the run stop where the recipe would go on."""
    cure: str = ""
    """What may help against it; said, and not kept."""

    def sentence(self, where: str = "") -> str:
        """For the log, and for the line with which a run stops; ``where`` the numbers went wrong."""
        key = f"recipe.anomalies.on_{self.kind.replace(' ', '_')}"
        done = {
            WARN: "the run continues",
            SKIP: "this step changes nothing",
            GO_BACK: "weights and optimizer are again those of the rollback point",
            STOP: f"the run stops; {key}={WARN if self.kind == COLLAPSE else SKIP} would continue from here",
        }[self.action]
        if self.limit:
            done = f"the run stops at recipe.anomalies.{self.limit}; with a higher one it continues from here"
        cure = "" if self.action in (SKIP, GO_BACK) else f"; {self.cure}"
        return f"{self.message} at step {self.step}{f' ({where})' if where else ''}: {done}{cure}"


class AnomalyWatch:
    """Judges the numbers of every step; all processes see the same numbers and come to the same answer."""

    def __init__(
        self,
        recipe: Anomalies,
        run_dir: Path,
        warmup_steps: int,
        collapse: tuple[str, Metric] | None,
        *,
        active: bool,
    ) -> None:
        """``collapse``: name and description of the method's metric of that role; None: it has none.

        ``active``: this process logs, and writes what was found to the run folder.
        """
        self.recipe, self.warmup_steps, self.collapse = recipe, warmup_steps, collapse
        self.path, self._active = run_dir / FILE, active
        self.found: list[dict[str, Any]] = []
        """The newest anomalies, oldest first, as they stand in the run folder's file."""
        self._losses: list[float] = []
        self._jumps = False
        self._collapsed_steps = self._skipped = self._returns = 0

    def state_dict(self) -> dict[str, Any]:
        return {
            "losses": list(self._losses), "jumps": self._jumps, "collapsed_steps": self._collapsed_steps,
            "skipped": self._skipped, "returns": self._returns, "found": list(self.found),
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint: what was found after it will be found again."""
        self._losses, self._jumps, self.found = list(state["losses"]), state["jumps"], _as_now(state["found"])
        self._collapsed_steps, self._skipped, self._returns = (
            state[key] for key in ("collapsed_steps", "skipped", "returns")
        )

    @property
    def is_healthy(self) -> bool:
        """Whether the present state may become a rollback point."""
        return not self._jumps and not self._collapsed_steps

    def judge(self, step: int, values: dict[str, float], *, overflow_is_normal: bool = False) -> Anomaly | None:
        """What is wrong with the numbers of ``step`` (counted from 1) and what to do; None: they are as they should be.

        A run that only warns has its answer here: the anomaly is logged, and the step is like any other.

        Args:
            step: whose numbers they are.
            values: ``loss``, ``gradient_norm`` and, where the method has one, its collapse metric.
            overflow_is_normal: gradient scaling will skip this step by itself when its gradient is not finite.
        """
        collapsed_before = self._collapsed_steps
        kind, message, value = self._found_in(step, values, overflow_is_normal)
        action = self._policy(kind)
        if action in ("", WARN):
            begins = kind == COLLAPSE or (kind == JUMP and not self._jumps)
            self._jumps = kind == JUMP
            self._losses = [*self._losses, values["loss"]][-self.recipe.window_steps :]
            if begins:
                self._log(Anomaly(step, kind, message, value, action, cure=self._cure(kind)))
            return None
        limit = ""
        if action == SKIP:
            limit = "" if self._skipped < self.recipe.max_skipped_steps else "max_skipped_steps"
            self._skipped += not limit
        elif action == GO_BACK:
            limit = "" if self._returns < self.recipe.max_returns else "max_returns"
            self._returns += not limit
        if limit or action == STOP:
            self._collapsed_steps = collapsed_before  # what is saved now is the state before this step
            return Anomaly(step, kind, message, value, STOP, limit, self._cure(kind))
        return Anomaly(step, kind, message, value, action, cure=self._cure(kind))

    def answered(self, anomaly: Anomaly, where: str = "") -> None:
        """The step was skipped, the run went back or stops: log it, with ``where`` the numbers went wrong."""
        if anomaly.action == GO_BACK:
            # The losses to come are those of older weights, and a collapse begins anew.
            self._losses, self._jumps, self._collapsed_steps = [], False, 0
        self._log(anomaly, where)

    def begin(self) -> None:
        """Make the run folder's file say what was found up to here."""
        if self.found or self.path.exists():
            self._write(self.found)

    def _found_in(self, step: int, values: dict[str, float], overflow_is_normal: bool) -> tuple[str, str, float | None]:
        """The kind of anomaly ("": none), in words, and the number that shows it."""
        for name in ("loss",) if overflow_is_normal else ("loss", "gradient_norm"):
            if not math.isfinite(values[name]):
                return NOT_FINITE, f"{name.replace('_', ' ')} is {values[name]}", None
        # The collapse is counted first: a jump in the same step must not hide it.
        name, metric = self.collapse or ("", Metric(title=""))
        spread = values[name] if name else 1.0
        collapses = step > self.warmup_steps and spread < self.recipe.collapse_below
        self._collapsed_steps = self._collapsed_steps + 1 if collapses else 0
        loss, window = values["loss"], self._losses
        if len(window) == self.recipe.window_steps:
            middle = median(window)
            deviation = 1.4826 * median(abs(value - middle) for value in window)
            deviation = max(deviation, _LEAST_DEVIATION * abs(middle))
            # Losses of 0, as those of triplets that are all told apart, have no deviation to compare with.
            if deviation and loss > middle + self.recipe.jump_deviations * deviation:
                if self._collapsed_steps == self.recipe.window_steps:
                    self._collapsed_steps -= 1  # the step that decides is the next one that does not jump
                return JUMP, f"loss jumps from {middle:.3f} to {loss:.3f}", loss
        if self._collapsed_steps == self.recipe.window_steps:
            return COLLAPSE, f"the embeddings have collapsed: {metric.title} is {metric.shown(spread)}", spread
        return "", "", None

    def _policy(self, kind: str) -> str:
        recipe = self.recipe
        policies = {NOT_FINITE: recipe.on_not_finite, JUMP: recipe.on_jump, COLLAPSE: recipe.on_collapse}
        return policies[kind] if kind else ""

    def _cure(self, kind: str) -> str:
        if kind == COLLAPSE and self.collapse and self.collapse[1].below:
            return f"check {self.collapse[1].below}"
        return _CURES[kind]

    def _log(self, anomaly: Anomaly, where: str = "") -> None:
        entry = {key: value for key, value in asdict(anomaly).items() if key != "cure"} | {"where": where}
        found = [*self.found, entry][-_KEPT:]
        if anomaly.action != STOP:  # which the run's last line says, and the next start will find again
            self.found = found
            if self._active:
                log.warning("anomaly warning: %s", anomaly.sentence(where))
        self._write(found)

    def _write(self, found: list[dict[str, Any]]) -> None:
        if self._active:
            write_record(self.path, found)


def read_anomalies(run_dir: Path) -> list[dict[str, Any]]:
    """What stands in a run folder's file; [] when there is none, or none that this module wrote."""
    try:
        found: Any = json.loads((run_dir / FILE).read_text(encoding="utf-8"))
        known = {"step", "kind", "message", "action"}
        found = _as_now(found) if isinstance(found, list) else []
        return found if all(known <= set(entry) for entry in found) else []
    except (OSError, ValueError, TypeError, AttributeError):
        return []


def _as_now(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Entries of a file or checkpoint, of this version or of one that called the ``message`` ``told``."""
    return [{"message" if key == "told" else key: value for key, value in entry.items()} for entry in found]
