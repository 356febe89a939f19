"""Contenders timed in turn in one process: the machine's speed drifts, so only ratios within a round mean anything."""

import resource
import statistics
import time
from collections.abc import Callable, Mapping


def in_turn(
    contenders: Mapping[str, Callable[[], object]],
    rounds: int,
    warm_up: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of each contender in each round; another one starts every round."""
    names = list(contenders)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(warm_up + rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            started = clock()
            contenders[name]()
            if number >= warm_up:
                seconds[name].append(clock() - started)
    return seconds


def ratio(above: list[float], below: list[float]) -> str:
    """Median, smallest and largest over the rounds of one contender's time over another's."""
    ratios = [a / b for a, b in zip(above, below, strict=True)]
    return f"median {statistics.median(ratios):.3f} (min {min(ratios):.3f}, max {max(ratios):.3f})"


def peak_mb() -> float:
    """The peak resident set of this process until now, MB (Linux counts it in kB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
