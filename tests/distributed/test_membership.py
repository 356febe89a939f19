"""What a meeting decides, by what those that are left bring to it."""

import errno
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch.distributed as dist

from simclr_dist.distributed.decision import decision
from simclr_dist.distributed.folder_store import FolderStore
from simclr_dist.distributed.membership import Membership
from simclr_dist.distributed.reach import Door, reached
from simclr_dist.distributed.run_store import Came, Pace, RunStore
from simclr_dist.errors import LostProcessError, UserError
from simclr_dist.log import log
from tests.support.waiting import wait_until


def divides_8(count: int) -> bool:
    return 8 % count == 0


def member(store: dist.TCPStore | FolderStore, identity: int = 1) -> Membership:
    return Membership(store, identity, 4, "card", 5.0, fits=divides_8)


@pytest.fixture
def folder(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "members")


@pytest.fixture(params=["server", "folder"])
def store(request: pytest.FixtureRequest, folder: FolderStore) -> dist.TCPStore | FolderStore:
    if request.param == "folder":
        return folder
    return dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)


def all_but(cut: set[tuple[int, int]]) -> Callable[[int], dict[int, bool]]:
    return lambda one: {other: not {(one, other), (other, one)} & cut for other in range(4)}


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
def test_a_meeting_decides_who_goes_on_in_which_order_and_from_which_step(came, decided):
    brought = {identity: Came(*what) for identity, what in came.items()}
    assert decision(brought, {each: all_but(set())(each) for each in came}, divides_8) == decided


@pytest.mark.parametrize(
    ("cut", "came", "decided"),
    [
        # The first is alone: the larger side goes on without it.
        ({(0, 1), (0, 2), (0, 3)}, {0: 0, 1: 1, 2: 2, 3: 3}, ([1, 2], [3], 7)),
        # Two halves: that of the first.
        ({(0, 2), (0, 3), (1, 2), (1, 3)}, {0: 3, 1: 2, 2: 0, 3: 1}, ([2, 3], [], 7)),
        # Both reach the two others and not each other.
        ({(2, 3)}, {0: 0, 1: 1, 2: 2, 3: 3}, ([0, 1], [2], 7)),
        # Those that hold the state before those that do not, however many.
        ({(0, 1), (0, 2), (0, 3)}, {0: 0, 1: None, 2: None, 3: None}, ([0], [], 7)),
    ],
)
def test_of_sides_that_do_not_reach_each_other_one_goes_on(cut, came, decided):
    brought = {identity: Came(rank, [] if rank is None else [7]) for identity, rank in came.items()}
    assert decision(brought, {each: all_but(cut)(each) for each in came}, divides_8) == decided


def test_what_one_process_reaches_and_the_other_does_not_is_cut():
    brought = {0: Came(0, [7]), 1: Came(1, [7])}
    sees = {0: {0: True, 1: True}, 1: {0: False, 1: True}}
    assert decision(brought, sees, divides_8) == ([0], [], 7)


def test_a_meeting_names_who_lives_and_does_not_come_and_goes_on_without_it(folder, monkeypatch, caplog):
    monkeypatch.setattr("simclr_dist.distributed.run_store._OF_FOLDER", Pace(0.05, 0.05, 3.0))
    monkeypatch.setattr("simclr_dist.distributed.membership._SECONDS_UNSAID", 0.2)
    monkeypatch.setattr(log, "propagate", True)
    ones = [Membership(folder, identity, 4, "card", 1.0, fits=divides_8) for identity in range(3)]
    with ones[0], ones[1], ones[2], ThreadPoolExecutor() as pool:
        met = list(pool.map(lambda one: one.meet([5]), ones[1:]))
    assert [meeting.members for meeting in met] == [[1, 2]] * 2
    # By the first of those that have come by then.
    said = {record.message.partition(";")[0] for record in caplog.records}
    assert said == {"waiting for process 0, alive and not here yet"}


def test_the_first_decision_of_a_meeting_holds(store):
    one = member(store)
    one._store.decide(1, ([0, 2], [3], 5))
    one._store.decide(1, ([1], [], 6))
    meeting = one.meet([6])
    assert (meeting.members, meeting.reserve, meeting.step) == ([0, 2], [3], 5)


def test_a_process_without_which_a_meeting_was_held_hears_of_it_before_its_next_step(folder):
    one = member(folder)
    one._watch.look()
    assert not one.grows()
    RunStore(folder).come(1, 0, Came(0, [5]))
    one._watch.look()
    with pytest.raises(LostProcessError):
        one.grows()


def test_a_group_that_is_over_is_broken_off_and_its_waits_ended_again_until_its_process_comes_to_the_meeting(
    folder, monkeypatch
):
    calls: list[str] = []
    for name in ("break_off", "end_waits"):
        monkeypatch.setattr(f"simclr_dist.distributed.group_watch.{name}", lambda name=name: calls.append(name))
    one = member(folder)
    RunStore(folder).come(1, 0, Came(0, [5]))
    for _ in range(3):
        one._watch.look()
    again = ["break_off", "end_waits"]
    assert calls == ["break_off", *again, *again]  # by itself first: a wait that ends so leaves nothing behind
    one._watch.leave_group()
    one._watch.look()
    assert len(calls) == 5


def test_a_process_whose_abort_does_not_free_it_ends_when_the_others_wait_for_it_no_more(folder, monkeypatch, capsys):
    """As where its main thread makes a communicator, which no abort reaches."""
    ended: list[int] = []
    monkeypatch.setattr("simclr_dist.distributed.group_watch.end_now", ended.append)
    monkeypatch.setattr("simclr_dist.distributed.group_watch.is_aborted", lambda: True)
    one = Membership(folder, 1, 2, "card", 0.3, fits=divides_8)
    RunStore(folder).come(1, 0, Came(0, [5]))
    one._watch.look()
    one._watch.look()
    assert ended == []
    time.sleep(0.3)
    one._watch.leave_group()
    one._watch.look()
    assert ended == []  # it has come to the meeting
    one._watch._meets = False
    one._watch.look()
    assert ended == [2]
    assert "NCCL does not let go of this one" in capsys.readouterr().err


def test_a_process_that_is_cut_off_from_the_others_store_begins_no_further_step(folder, monkeypatch):
    monkeypatch.setattr("simclr_dist.distributed.run_store._OF_FOLDER", Pace(0.01, 0.01, 0.1))
    one = member(folder)
    folder.remove()
    with one:
        assert one._watch.join(10)
        with pytest.raises(LostProcessError):
            one.grows()
        with pytest.raises(UserError, match="cannot be reached"):
            one.meet([5])


@pytest.mark.parametrize(("number", "failures"), [(errno.EIO, 3), (errno.ENOSPC, 30), (errno.EDQUOT, 30)])
def test_a_store_that_cannot_be_written_for_a_while_loses_nobody(folder, monkeypatch, number, failures):
    monkeypatch.setattr("simclr_dist.distributed.run_store._OF_FOLDER", Pace(0.01, 0.01, 0.1))
    one = member(folder)
    real, tried = FolderStore.set, []

    def failing(store: FolderStore, key: str, value: str) -> None:
        tried.append(key)
        if len(tried) <= failures:
            raise OSError(number, "no")
        real(store, key, value)

    monkeypatch.setattr(FolderStore, "set", failing)
    with one:
        wait_until(lambda: len(tried) > failures + 2, 20, "no signs of life")
        assert not one.grows()


def test_a_process_whose_launcher_is_gone_finishes_what_its_group_does_and_meets_nobody():
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    one = member(dist.TCPStore("127.0.0.1", store.port))
    del store
    with one:
        assert one._watch.join(20)
        assert not one.grows()
        with pytest.raises(UserError, match="the launcher is gone"):
            one.meet([5])


def test_who_is_started_again_before_it_has_begun_begins_with_the_others(folder):
    records = RunStore(folder)
    records.begins_again(1)
    assert not member(folder).comes_back
    records.begins_again(1)
    assert member(folder).comes_back


def test_where_all_have_come_back_and_nobody_trains_those_that_wait_begin(folder, monkeypatch):
    monkeypatch.setattr("simclr_dist.distributed.run_store._OF_FOLDER", Pace(0.02, 0.02, 2.0))

    def begins(waiting: Membership) -> bool:
        begun = waiting.wait_for_next()
        RunStore(folder).come(1, waiting.identity, Came(None, []))  # which calls the other, if this one was faster
        return begun

    with member(folder, 0) as one, member(folder, 2) as other, ThreadPoolExecutor(2) as threads:
        called = [threads.submit(begins, each) for each in (one, other)]
        assert [each.result(20) for each in called] == [True, True]


def test_only_what_listens_is_reached():
    door, other = Door(), Door()
    with socket.create_server(("127.0.0.1", 0)) as closed:
        nobody = closed.getsockname()[1]
    gone = other.address
    other.close()
    assert reached({0: door.address, 1: gone, 2: f"127.0.0.1:{nobody}"}) == [0]
    door.clear()
    door.close()


def test_a_folder_as_a_store_counts_every_process_and_keeps_the_first_value(folder, monkeypatch):
    def seen_late(_: str) -> list[str]:
        return []

    assert [folder.add("events", 1) for _ in range(3)] == [1, 2, 3]
    monkeypatch.setattr("simclr_dist.distributed.folder_store.os.listdir", seen_late)
    assert folder.add("events", 1) == 4  # the names that it does not see yet are taken
    assert folder.compare_set("decided", "", "one") == b"one"
    assert folder.compare_set("decided", "", "two") == folder.get("decided") == b"one"
    assert not folder.check(["decided", "missing"])
