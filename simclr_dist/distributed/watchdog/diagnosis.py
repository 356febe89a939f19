"""Who of the processes is lost, by what they wrote of themselves at two moments, and the line that says so."""

from collections.abc import Sequence

from simclr_dist.distributed.watchdog.heartbeats import LEFT, TIMED_OUT, Heartbeat
from simclr_dist.distributed.watchdog.progress import Progress

Heartbeats = Sequence[Heartbeat | None]
"""By rank; None: it has written none."""

_SILENT, _BEHIND, _LEFT, _NOBODY = range(4)
_NAMED = 4
_AGAIN = "start again to resume from the last checkpoint"


def is_lost(before: Heartbeats, after: Heartbeats, own: int) -> bool:
    """Whether a process is silent, or the others wait for it; not whether one has left in peace."""
    return _lost(before, after, own)[0] in (_SILENT, _BEHIND)


def is_silent(before: Heartbeats, after: Heartbeats, own: int) -> bool:
    """Whether a process writes nothing, however far it is."""
    return _lost(before, after, own)[0] == _SILENT


def diagnose(
    before: Heartbeats,
    after: Heartbeats,
    own: int,
    *,
    seconds: float,
    timeout_seconds: int,
    silent_seconds: float = 0.0,
) -> str:
    """The line, from process ``own``, whose collective has failed; ``seconds`` lie between the two moments.

    ``silent_seconds``: how long one has been silent already, where none has failed yet.
    """
    how, ranks = _lost(before, after, own)
    timed_out = any(each is not None and each.state == TIMED_OUT for each in after)
    unanswered = _unanswered(timeout_seconds)
    us = after[own]
    waited = f"process {own} on {us.host} waited {us.progress.waiting}" if us else f"process {own} waited"
    if how == _NOBODY:
        what = f"another process {unanswered}" if timed_out else "a connection to another process has broken"
        return (
            f"{what}, though all give signs of life and none is behind: the network between them stands or is too "
            f"slow; {waited}; {_AGAIN}"
        )
    if how == _LEFT:
        what = "has ended without an error before the others"
    elif how == _SILENT and silent_seconds:
        what = f"gave no sign of life for {silent_seconds + seconds:.0f} s: it is stopped, or its node or it is gone"
    elif how == _SILENT and timed_out:
        what = f"{unanswered} and gave no sign of life for {seconds:.0f} s: it is stopped, or its node or it is gone"
    elif how == _SILENT:
        what = f"has ended: it gave no sign of life for {seconds:.0f} s"
    elif timed_out:
        what = f"{unanswered}: it gives signs of life but hangs"
    else:
        what = "has closed its connections: it gives signs of life"
    first = after[ranks[0]]
    last = f"it is {first.progress.last}" if first and how == _BEHIND else _last(first)
    return f"{_names(ranks, after)} {what}; {last}; {waited}. See its log; {_AGAIN}"


def store_lost(first: Heartbeat | None, timeout_seconds: int, *, holder_ended: bool, held_by_first: bool) -> str:
    """The line when the store does not answer: all that is known then is who holds it.

    ``first``: what process 0 wrote of itself before.
    """
    what = "has ended" if holder_ended else _unanswered(timeout_seconds)
    if not held_by_first:
        return (
            f"another process {what}; which one cannot be found out: the launcher's store on the first node is gone or "
            f"does not answer; {_AGAIN}"
        )
    name = f"process 0 on {first.host}" if first else "process 0"
    return f"{name} {what}, as the store that it holds shows; {_last(first)}. See its log; {_AGAIN}"


def device_stands(rank: int, host: str, at: Progress, seconds: float) -> str:
    """The line when all processes are equally far and this one's GPU does nothing more."""
    return (
        f"process {rank} on {host} has waited {at.waiting} for {seconds:.0f} s and its GPU does nothing, though no "
        f"process is silent or behind: a collective or a kernel hangs; {_AGAIN}"
    )


def ended(rank: int, host: str, why: str) -> str:
    """The line about a process that ends by an error of its own."""
    return f"process {rank} on {host} has ended: {why}; {_AGAIN}"


def _lost(before: Heartbeats, after: Heartbeats, own: int) -> tuple[int, list[int]]:
    """How processes are lost, and which.

    Behind is who has begun fewer collectives: the others wait in one that it has not reached.
    """
    pairs = list(enumerate(zip(before, after, strict=True)))
    silent = [
        rank
        for rank, (one, two) in pairs
        if two is None or (two.state != LEFT and one is not None and one.beat == two.beat)
    ]
    if silent:
        return _SILENT, silent
    counts = {rank: two.progress.begun for rank, (_, two) in pairs if two is not None and two.state != LEFT}
    lowest = min(counts.values(), default=0)
    behind = [rank for rank, count in counts.items() if count == lowest and rank != own]
    if behind and lowest < max(counts.values()):
        return _BEHIND, behind
    left = [rank for rank, _ in pairs if rank not in counts]
    return (_LEFT, left) if left else (_NOBODY, [])


def _last(heartbeat: Heartbeat | None) -> str:
    return f"it was last heard of {heartbeat.progress.last}" if heartbeat else "nothing was heard of it"


def _unanswered(seconds: int) -> str:
    return f"has not answered for {seconds} s (machine.collective_timeout_seconds)"


def _names(ranks: Sequence[int], heartbeats: Heartbeats) -> str:
    named = [f"{rank} on {each.host}" if (each := heartbeats[rank]) else str(rank) for rank in ranks[:_NAMED]]
    more = f" and {len(ranks) - _NAMED} more" if len(ranks) > _NAMED else ""
    return f"process {', '.join(named)}{more}"
