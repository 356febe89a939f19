"""Cores of a process: those of its node that are its own, whoever has bound it to them."""

import os
import socket

import pytest

from simclr_dist.distributed.collectives import process_rank
from simclr_dist.distributed.cores import own_cores, share_of, worker_count
from tests.support.processes import run_distributed

NODE = frozenset(range(96))


@pytest.mark.parametrize(
    ("masks", "shares"),
    [
        ([NODE] * 8, [12] * 8),  # torchrun: all may run everywhere
        ([frozenset(range(12 * task, 12 * task + 12)) for task in range(8)], [12] * 8),  # srun --cpus-per-task=12
        ([frozenset({0, 1}), frozenset(range(2, 8))], [2, 6]),
        ([frozenset(range(4)), frozenset(range(2, 6))], [3, 3]),
        ([frozenset({0})] * 3, [1] * 3),
        ([frozenset(range(49))] * 49, [1] * 49),
    ],
)
def test_a_core_is_shared_by_those_processes_alone_that_may_run_on_it(masks, shares):
    assert [share_of(mask, masks) for mask in masks] == shares


def _own_cores(hosts: list[str], masks: list[set[int]]) -> int:
    rank = process_rank()
    socket.gethostname = lambda: hosts[rank]  # type: ignore[assignment]
    os.environ.pop("SLURMD_NODENAME", None)
    os.sched_getaffinity = lambda _: masks[rank]  # type: ignore[assignment]
    return own_cores()


def test_processes_bound_to_cores_of_their_own_keep_all_of_them_and_other_nodes_take_none():
    hosts, masks = ["a", "a", "b", "b"], [{0, 1, 2}, {3, 4, 5}, {0, 1, 2, 3}, {0, 1, 2, 3}]
    assert run_distributed(4, _own_cores, hosts, masks) == [3, 3, 2, 2]


def test_workers_are_those_asked_for_or_one_a_core_and_never_more_than_16():
    assert [worker_count(requested, 12) for requested in (-1, 0, 40)] == [12, 0, 40]
    assert worker_count(-1, 96) == 16
