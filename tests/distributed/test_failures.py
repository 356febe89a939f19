"""What the backends' errors mean, and that their reason is told."""

import time
from datetime import timedelta
from typing import Any

import pytest
import torch
import torch.distributed as dist

from simclr_dist.distributed.watchdog.failures import how_it_failed, reason_of
from simclr_dist.distributed.watchdog.heartbeats import CUT_OFF, TIMED_OUT, HeartbeatStore
from simclr_dist.distributed.watchdog.monitor import LostProcesses
from simclr_dist.errors import UserError

WHERE = "NCCL error in: /pytorch/torch/csrc/distributed/c10d/NCCLUtils.cpp:77"


def of_nccl(kind: str, last: str) -> dist.DistBackendError:
    """As torch 2.11 to 2.14 words it."""
    return dist.DistBackendError(f"{WHERE}, {kind} (run with NCCL_DEBUG=WARN for details), NCCL version 2.28.9\n{last}")


TWINS = of_nccl(
    "invalid usage",
    "ncclInvalidUsage: This usually reflects invalid usage of NCCL library.\nLast error:\n"
    "Duplicate GPU detected : rank 0 and rank 1 both on CUDA device 1000",
)
MEMORY = of_nccl(
    "unhandled cuda error",
    "ncclUnhandledCudaError: Call to CUDA function failed.\nLast error:\nCuda failure 2 'out of memory'",
)
SYSTEM = "ncclSystemError: System call (e.g. socket, malloc) or external library call failed or device error. \n"
NO_SPACE = of_nccl("unhandled system error", f"{SYSTEM}Last error:\nError: failed to extend /dev/shm/nccl-7 to 9 bytes")
REFUSED = of_nccl(
    "unhandled system error", f"{SYSTEM}Last error:\nsocketStartConnect: Connect to 10.0.0.2<40001> failed : refused"
)
NO_INTERFACE = of_nccl("internal error", "Last error:\nBootstrap : no socket interface found")
REMOTE = of_nccl(
    "remote process exited or there was a network error",
    "ncclRemoteError: A call failed possibly due to a network error or a remote process exiting prematurely.\n"
    "Last error:\nNET/IB: Got completion from 10.0.0.2<40001> with status=12",
)
ABORTED = dist.DistBackendError("NCCL communicator was aborted on rank 1.")
NO_ID = dist.DistBackendError(
    "[1] is setting up NCCL communicator and retrieving ncclUniqueId from [0] via c10d key-value store by key '0', but "
    "got error: wait timeout after 600000ms, keys: /group 0/0"
)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (TWINS, None),
        (MEMORY, None),
        (NO_SPACE, None),
        (NO_INTERFACE, None),
        (torch.AcceleratorError("CUDA error: the launch timed out and was terminated"), None),
        (torch.OutOfMemoryError("CUDA out of memory"), None),
        (REFUSED, CUT_OFF),
        (REMOTE, CUT_OFF),
        (ABORTED, CUT_OFF),
        (NO_ID, TIMED_OUT),
        (dist.DistNetworkError("recv failed"), CUT_OFF),
        (RuntimeError("[pair.cc:561] Connection closed by peer [127.0.0.1]:42690"), CUT_OFF),
        (RuntimeError("[unbound_buffer.cc:81] Timed out waiting 4000ms for recv operation to complete"), TIMED_OUT),
    ],
)
def test_only_errors_that_speak_of_others_are_taken_for_a_lost_process(error, expected):
    assert how_it_failed(error) == expected


@pytest.fixture
def lost() -> Any:
    """Process 0 of two, of which the other has been heard of once."""
    held = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=10))
    lost = LostProcesses(HeartbeatStore(held, "heartbeats", is_here=True), 0, 2, 600, held_by_first=True)
    lost.host, lost.observed_seconds = "node0", 0.3
    yield lost
    lost._failed_itself = False
    lost.leave()


def test_an_error_of_nccl_here_is_told_with_nccls_reason_and_the_others_read_it(lost):
    with pytest.raises(UserError, match=r"^process 0 on node0: NCCL error in") as failure, lost.named():
        raise TWINS
    assert "Last error: Duplicate GPU detected : rank 0 and rank 1 both on CUDA device 1000; " in str(failure.value)
    published = lost.store.diagnosis()
    assert published.startswith("process 0 on node0 has ended: DistBackendError: NCCL error in")
    assert "Duplicate GPU detected" in published


def test_where_another_process_is_lost_nccls_reason_stands_behind_the_line(lost):
    with (
        pytest.raises(UserError, match=r"^process 1 has ended: .*\(NCCL error in: .*completion from") as failure,
        lost.named(),
    ):
        raise REMOTE
    assert len(str(failure.value).splitlines()) == 1


def test_a_reason_is_the_first_line_where_nccl_says_nothing_more():
    assert reason_of(RuntimeError("one\ntwo")) == "one"


class ClosingStore:
    """The store of a process that ends: its connections close one after the other."""

    def __init__(self) -> None:
        self.closes = time.monotonic() + 0.3

    @property
    def is_gone(self) -> bool:
        return time.monotonic() > self.closes

    def write(self, *_: object) -> None:
        raise ConnectionError


def test_a_holder_of_the_store_whose_connections_have_not_all_closed_yet_has_ended_and_is_not_called_silent():
    lost = LostProcesses(ClosingStore(), 1, 2, 600, held_by_first=True)  # type: ignore[arg-type]
    assert lost.holder_lost().startswith("process 0 has ended, as the store")
