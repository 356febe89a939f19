"""What a meeting decides, by what those that are left bring to it."""

import pytest
import torch.distributed as dist

from simclr_dist.distributed.membership import Membership


@pytest.fixture
def store() -> dist.TCPStore:
    return dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)


@pytest.fixture
def decide(store: dist.TCPStore) -> Membership:
    return Membership(store, 1, 4, "card", 5.0, fits=lambda count: 8 % count == 0)


@pytest.mark.parametrize(
    ("came", "decided"),
    [
        # One has done a step that another has not: all go on from the one before.
        ({0: (0, [7, 6]), 1: (1, [6])}, ([0, 1], [], 6)),
        # One is a step further into it: the other has that state too.
        ({0: (0, [7, 6]), 1: (1, [7])}, ([0, 1], [], 7)),
        # As many as 8 images can be shared by; the third waits.
        ({0: (0, [7]), 1: (1, [7]), 3: (3, [7])}, ([0, 1], [3], 7)),
        # Who has no state comes after those that have; the first, with the files and the lock, stays the first.
        ({0: (None, []), 1: (0, [7]), 2: (1, [7]), 3: (None, [])}, ([1, 2, 0, 3], [], 7)),
        ({0: (2, [7]), 1: (0, [7]), 2: (1, [7]), 3: (3, [7])}, ([1, 2, 0, 3], [], 7)),
        # Nobody has one: from the newest checkpoint.
        ({2: (None, []), 3: (None, [])}, ([2, 3], [], None)),
    ],
)
def test_a_meeting_decides_who_goes_on_in_which_order_and_from_which_step(decide, came, decided):
    assert decide.decision(came) == decided


def test_the_first_decision_of_a_meeting_holds(decide):
    decide._store.decide(1, ([0, 2], [3], 5))
    meeting = decide.meet([6])
    assert (meeting.members, meeting.reserve, meeting.step) == ([0, 2], [3], 5)
