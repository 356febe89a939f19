"""The next batch is sent while the present one is used: in order, and with every end where it was."""

from collections.abc import Callable, Iterator

import pytest

from simclr_dist.data.loading.one_ahead import one_ahead


def watched(count: int, failure: Exception | None = None) -> tuple[Iterator[int], list[str]]:
    """So many items, then perhaps a failure, and what has happened to them so far."""
    happened: list[str] = []

    def items():
        try:
            yield from range(count)
            if failure:
                raise failure
        finally:
            happened.append("closed")

    def send(item: int) -> Callable[[], int]:
        happened.append(f"{item} sent")

        def arrived() -> int:
            happened.append(f"{item} arrives")
            return item

        return arrived

    return one_ahead(items(), send), happened


def test_an_item_is_sent_before_the_one_ahead_of_it_is_used_and_no_more_than_one():
    items, happened = watched(3)
    for number, item in enumerate(items):
        assert item == number
        happened.append(f"{item} used")
    assert happened == [
        "0 sent", "1 sent", "0 arrives", "0 used", "2 sent", "1 arrives", "1 used", "closed", "2 arrives", "2 used",
    ]  # fmt: skip
    assert list(watched(0)[0]) == []


def test_an_item_that_cannot_be_made_fails_where_it_is_asked_for_and_not_before():
    items, _ = watched(2, OSError("no third"))
    assert (next(items), next(items)) == (0, 1)
    with pytest.raises(OSError, match="no third"):
        next(items)
    with pytest.raises(OSError, match="not even one"):
        next(watched(0, OSError("not even one"))[0])


def test_items_that_are_not_taken_are_closed():
    items, happened = watched(3)
    next(items)
    items.close()
    assert happened[-1] == "closed"
