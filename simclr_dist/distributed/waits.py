"""Waiting for gloo's collectives in a way that another thread can end.

When a connection breaks gloo tells those who wait for a tensor of which nothing has come. Whoever waits for one that
has come, or gone, in part is forgotten, and waits for its timeout (torch 2.14: gloo's ``Pair::signalException`` passes
over ``rx_`` and over the unbound buffers of ``tx_``). No call ends that wait, so nobody waits in gloo here but gloo's
own thread, which is left there when the group is over.
"""

import ctypes
import threading
import time
import weakref
from typing import Any

import torch.distributed as dist
from torch.futures import Future

GROUP_IS_OVER = "Connection closed by this process, whose group is over"
_LATE_SECONDS = 1.0
_waits: dict[Future[None], dist.ProcessGroup] = {}
_lock = threading.Lock()
_ended: "weakref.WeakSet[dist.ProcessGroup]" = weakref.WeakSet()  # default groups whose waits were ended


def finish(work: dist.Work | None, group: dist.ProcessGroup | None = None) -> None:
    """Wait until a collective of tensors on the CPU is over; None: it is already.

    Raises:
        RuntimeError: gloo's; or the wait was ended by :func:`end_waits`.
    """
    if work is not None:
        _over(work, group).wait()
        _raise_if_left(work)
        work.wait()


def result_of(work: dist.Work, group: dist.ProcessGroup | None = None) -> Future[Any]:
    """The list of tensors that such a collective makes, or the error that :func:`finish` raises."""

    def result(_: Future[None]) -> Any:
        _raise_if_left(work)
        return work.get_future().wait()

    return _over(work, group).then(result)


def end_waits(after_seconds: float = 0.0) -> None:
    """End all waits, of any thread, that do not end by themselves in this time. Their groups are over.

    A collective that was begun already may be waited for only later: that wait is ended too.
    """
    if dist.group.WORLD is not None:
        _ended.add(dist.group.WORLD)
    deadline = time.monotonic() + after_seconds
    while _waits and time.monotonic() < deadline:
        time.sleep(0.01)
    with _lock:
        left = dict(_waits)
    for over in left:
        _end(over, is_left=True)


def _over(work: dist.Work, group: dist.ProcessGroup | None) -> Future[None]:
    """Is done when the collective is, or is given up."""
    over: Future[None] = Future()
    with _lock:
        _waits[over] = group or dist.distributed_c10d._get_default_group()
    work.get_future().add_done_callback(lambda _: _end(over))
    if dist.group.WORLD in _ended:
        late = threading.Timer(_LATE_SECONDS, _end, (over,), {"is_left": True})
        late.daemon = True
        late.start()
    return over


def _end(over: Future[None], *, is_left: bool = False) -> None:
    """``is_left``: its collective may never be over."""
    with _lock:
        group = _waits.pop(over, None)
    if group is None:
        return
    if is_left:
        # Never freed: the end of a group waits for its threads, in this process's own end too.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(group))
    over.set_result(None)


def _raise_if_left(work: dist.Work) -> None:
    if not work.get_future().done():
        raise RuntimeError(GROUP_IS_OVER)
