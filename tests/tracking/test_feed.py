"""metrics.jsonl to a tracker that fails."""

import json

from simclr_dist.tracking.feed import Feed
from simclr_dist.tracking.lines import Lines
from tests.support.tracking import line


class Store:
    """A tracker that refuses some of its calls; what it has taken it keeps, as a server does."""

    def __init__(self, refused=()):
        self.steps, self.opened, self.refused = [], 0, set(refused)
        self.last_step = 0

    def open(self):
        self.opened += 1
        self.last_step = self.steps[-1] if self.steps else 0
        self._refuse("open")
        return self

    def send(self, records):
        for record in records:
            self._refuse(record["step"])
            self.steps.append(record["step"])

    def caught_up(self):
        self._refuse("caught_up")

    def _refuse(self, what):
        if what in self.refused:
            self.refused.remove(what)
            raise ConnectionError(f"{what} refused\nand more")


def feed_of(folder, store):
    told = []
    return Feed(store.open, lambda after: Lines(folder / "metrics.jsonl", after), told.append), told


def append(folder, *steps, end="\n"):
    with (folder / "metrics.jsonl").open("a") as file:
        file.write("\n".join(json.dumps(line(step)) for step in steps) + end)


def test_what_a_tracker_refused_is_sent_later_once_and_said_in_one_line(tmp_path):
    append(tmp_path, 1, 2, 3, 4)
    store = Store(refused=["open", 3, "caught_up"])
    feed, told = feed_of(tmp_path, store)
    assert [feed.send(now=True) for _ in range(4)] == [False, False, False, True]
    append(tmp_path, 5)
    assert feed.send()
    assert (store.steps, feed.sent_step) == ([1, 2, 3, 4, 5], 5)
    assert told == ["fails: ConnectionError: open refused", "is reached again; what it missed was sent"]


def test_a_file_that_a_new_start_has_cut_back_is_read_from_its_beginning(tmp_path):
    append(tmp_path, 1, 2, 3)
    store = Store()
    feed, _ = feed_of(tmp_path, store)
    assert feed.send()
    (tmp_path / "new").write_text('{"step": 1}\n')  # shorter: what comes next begins before the place where we were
    (tmp_path / "new").replace(tmp_path / "metrics.jsonl")
    append(tmp_path, 2, 3, 4, 5)
    assert feed.send()
    assert store.steps == [1, 2, 3, 4, 5]


def test_after_an_error_a_tracker_is_left_alone_for_a_while(tmp_path):
    append(tmp_path, 1)
    store = Store(refused=["open"])
    feed, _ = feed_of(tmp_path, store)
    assert [feed.send() for _ in range(5)] == [False] * 5
    assert store.opened == 1


def test_a_line_that_is_not_whole_yet_is_sent_when_it_is(tmp_path):
    store = Store()
    feed, _ = feed_of(tmp_path, store)
    assert feed.send()  # there is no file yet
    append(tmp_path, 1, end='\n{"step": 2, "lo')
    assert feed.send()
    assert store.steps == [1]
    append(tmp_path, end='ss": 2.5}\n')
    assert feed.send()
    assert store.steps == [1, 2]
