"""A run that goes on when processes are lost: the others form a new group, and train on from a step in their memory.

The trajectory does not depend on the number of processes, so it is the same run (docs/design/survivors.md).
"""

import gc
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace

import torch

from simclr_dist.distributed.collectives import from_first, gather_objects
from simclr_dist.distributed.membership import Meeting, Membership
from simclr_dist.distributed.processes import Processes
from simclr_dist.errors import AgreedError, LostProcessError, StuckError, UserError
from simclr_dist.log import log, log_to_terminal
from simclr_dist.training.opened import Opened
from simclr_dist.training.outcome import Outcome
from simclr_dist.training.standing import Ground, Kept, LeftError, MoreProcessesError


@dataclass
class Survivors:
    """Trains with one group after the other until the run is over."""

    membership: Membership
    group: Callable[[Processes, int], AbstractContextManager[None]]
    """The process group of these processes, decided on by the meeting of that number."""
    train: Callable[[Processes, Ground], Outcome]
    """The steps that are left; how they ended is told to those in reserve."""
    open_images: Callable[[], Opened]
    """For a process that waits, so that the others need not wait for it."""
    ground: Ground = field(default_factory=Ground)

    def run(self, processes: Processes) -> Outcome:
        """Train, or wait in reserve, until the run is over.

        Raises:
            UserError: as training does; or the others have gone on without this process, which they thought lost.
        """
        self.ground.can_grow = self.membership.grows
        here: Processes | None = processes
        if self.membership.comes_back:
            here = self._in_reserve(processes, time.monotonic())
        while here is not None:
            try:
                with self.group(here, self.membership.number):
                    if self.membership.number:
                        self.ground.kept = _shared(self.ground.kept)
                    outcome = self.train(here, self.ground)
                self.membership.end({"outcome": asdict(outcome)})
                return outcome
            except LeftError as left:
                return left.outcome
            except AgreedError as error:
                self.membership.end({"error": str(error)})
                raise
            except MoreProcessesError:
                began, why = time.monotonic(), "other processes have come"
            except StuckError:
                raise
            except (UserError, RuntimeError) as lost:
                # A group that is over fails in many words, NCCL's and the GPU's among them.
                if not (isinstance(lost, LostProcessError) or self.membership.is_broken):
                    raise
                began, why = time.monotonic(), str(lost).partition("; start again")[0]
            # The exception is gone by here, and with its frames all that the old group held.
            here = self._met(why, began, here)
        ended = self.membership.outcome() or {"error": "the processes that trained have ended, and not said how"}
        if "error" in ended:
            raise AgreedError(ended["error"])
        return replace(Outcome(**ended["outcome"]), is_first=False)

    def _in_reserve(self, before: Processes, began: float) -> Processes | None:
        """Wait until the others need this process, or take it in: its place then; None: the run is over."""
        self.ground = replace(self.ground, kept=None, standing=None, opened=self.ground.opened or self.open_images())
        return self._met("this process has come", began, before) if self.membership.wait_for_next() else None

    def _met(self, why: str, began: float, before: Processes) -> Processes | None:
        """This process's place in the next group; None: there is none that needs it."""
        membership, ground = self.membership, self.ground
        meeting = membership.meet(ground.steps)
        if membership.identity not in meeting.members:
            if membership.identity not in meeting.reserve:
                raise UserError(f"the run goes on without this process, which was thought lost ({why})")
            return self._in_reserve(before, began)
        self.ground = replace(ground, kept=ground.after(meeting.step), standing=None, lost_at=began)
        del ground
        gc.collect()  # a step that was recorded refers to itself, and the next may need all of the GPU
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
        here = Processes(
            meeting.members.index(membership.identity), len(meeting.members), before.local_rank, before.local_count
        )
        if here.is_first:
            log_to_terminal()  # process 0 may have been the one that did
            log.warning("%s", _told(why, meeting, membership.count))
        return here


def _told(why: str, meeting: Meeting, count: int) -> str:
    there = {*meeting.members, *meeting.reserve}
    gone = ", ".join(str(identity) for identity in range(count) if identity not in there)
    parts = [why, f"without process {gone}" if gone else "all are there"]
    step = f"step {meeting.step}" if meeting.step is not None else "the newest checkpoint"
    parts.append(f"{len(meeting.members)} go on from {step}")
    parts += [f"{len(meeting.reserve)} in reserve"] if meeting.reserve else []
    return "; ".join(filter(None, parts))


def _shared(kept: Kept | None) -> Kept | None:
    """The state, on processes that came without one too; None where nobody has it."""
    if all(gather_objects(kept is not None, label="who has the state")):
        return kept
    # Who has it comes first in the order of ranks.
    of_first = from_first(kept, label="the state")
    return kept or of_first
