"""Waits for collectives that another thread ends."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.futures import Future

from simclr_dist.distributed import waits
from simclr_dist.distributed.collectives import copy_first, gather_objects
from simclr_dist.distributed.processes import Processes, _free_main_thread, process_group
from simclr_dist.distributed.waits import end_waits, finish, result_of
from simclr_dist.errors import LostProcessError
from tests.support.groups import started
from tests.support.waiting import wait_until

NUMBERS = 2**25


def cut_off_in_the_middle(rank: int, count: int, goes_on: bool) -> tuple[str, bool, float]:
    """What process 1 is told when process 0 dies while its numbers come; whether some were missing; the seconds.

    ``goes_on``: without the lost process, so that the thread that hears of it frees the main thread.
    """
    numbers = torch.full((NUMBERS,), float(rank == 0))
    since = 0.0
    try:
        when_in_vain = _free_main_thread if goes_on else None
        with process_group(Processes(rank, count, 0, 1), torch.device("cpu"), 90, when_in_vain=when_in_vain):
            first = gather_objects(os.getpid())[0]

            def watch() -> None:
                nonlocal since
                while not numbers[0]:
                    pass
                os.kill(first, signal.SIGKILL)
                since = time.monotonic()
                if goes_on:
                    _free_main_thread()

            if rank:
                threading.Thread(target=watch, daemon=True).start()
            copy_first([numbers], label="the numbers")
    except LostProcessError as error:
        return str(error), not numbers[-1], time.monotonic() - since
    return "went on", False, 0.0


@pytest.mark.parametrize("goes_on", [True, False])
def test_who_waits_for_a_tensor_that_has_come_in_part_is_freed_and_its_process_ends_before_gloos_timeout(goes_on):
    with ExitStack() as stack:
        running = stack.enter_context(started(2, cut_off_in_the_middle, goes_on))[1]
        told, is_cut, seconds = running.results()[0]
        status = running.processes[0].exitcode
    assert is_cut
    assert told.startswith(f"process 0 on node0 {'has ended' if goes_on else 'gave no sign of life for 3 s'}")
    assert seconds < 30
    assert status == 0


class Endless:
    """A collective of a group that gloo has forgotten."""

    def __init__(self) -> None:
        self.future: Future[Any] = Future()

    def get_future(self) -> Future[Any]:
        return self.future


def one_process() -> Iterator[dist.ProcessGroup]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    assert dist.group.WORLD is not None
    yield dist.group.WORLD
    dist.destroy_process_group()


group = pytest.fixture(one_process)


def test_waits_of_the_step_and_of_ddp_are_both_ended_and_only_those_that_do_not_end_by_themselves(group):
    ended = dist.all_reduce(torch.ones(2), async_op=True)
    summed, forgotten = result_of(ended, group), result_of(Endless(), group)
    threading.Timer(0.2, end_waits).start()
    with pytest.raises(RuntimeError, match="Connection closed"):
        finish(Endless(), group)
    with pytest.raises(RuntimeError, match="Connection closed"):
        forgotten.wait()
    assert summed.wait()[0].tolist() == [1, 1]


def test_a_wait_that_begins_after_those_of_its_group_were_ended_is_ended_too_and_one_of_the_next_group_is_not(
    monkeypatch,
):
    monkeypatch.setattr(waits, "_LATE_SECONDS", 0.2)
    with contextmanager(one_process)() as first:
        end_waits()
        finish(dist.all_reduce(torch.ones(2), async_op=True), first)
        late = result_of(Endless(), first)
        wait_until(late.done, 10, "it still waits")
        with pytest.raises(RuntimeError, match="Connection closed"):
            late.wait()
    with contextmanager(one_process)() as second:
        waiting = result_of(Endless(), second)
        time.sleep(0.5)
        assert not waiting.done()
        end_waits()
