"""What a meeting decides, by what those that are left have brought and whom each of them reaches."""

from collections.abc import Callable

from simclr_dist.distributed.run_store import Came, Decided, Sees


def decision(came: dict[int, Came], sees: dict[int, Sees], fits: Callable[[int], bool]) -> Decided:
    """Who goes on, by identity.

    Of processes between which a connection is cut the larger side goes on, of two equal ones that of the first by rank;
    the others are neither members nor in reserve.

    Args:
        came: what each has brought.
        sees: whom each reaches, of those that came.
        fits: whether the recipe can be computed by so many processes.
    """

    def use(identity: int) -> tuple[bool, bool, int, int]:
        """Who has a state, in the order of ranks before: the first stays the first, with files and lock."""
        rank, steps, _ = came[identity]
        return not steps, rank is None, rank or 0, identity

    came = {each: came[each] for each in _side(sorted(came, key=use), came, sees)}
    holders = [set(what.steps) for what in came.values() if what.steps]
    # With what all of them hold nothing need be sent.
    common = set.intersection(*holders) if holders else set()
    step = max(common or set.union(*holders)) if holders else None
    by_use = sorted(came, key=lambda each: (step not in came[each].steps, *use(each)))
    members = fitting(len(came), fits)
    return by_use[:members], by_use[members:], step


def fitting(count: int, fits: Callable[[int], bool]) -> int:
    """The most processes, up to ``count``, that the recipe can be shared by."""
    return next((fewer for fewer in range(count, 1, -1) if fits(fewer)), 1)


def _side(by_use: list[int], came: dict[int, Came], sees: dict[int, Sees]) -> list[int]:
    """The most processes that all reach each other, those with a state before others."""

    def together(one: int, other: int) -> bool:
        return one == other or (sees[one].get(other, False) and sees[other].get(one, False))

    sides = []
    for first in by_use:
        side = [first]
        for each in by_use:
            if each != first and all(together(each, other) for other in side):
                side.append(each)
        sides.append(side)
    return max(sides, key=lambda side: (any(came[each].steps for each in side), len(side)), default=[])
