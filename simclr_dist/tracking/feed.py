"""metrics.jsonl to one tracker, whose library may fail at any call: what it did not take is sent again later."""

import time
from collections.abc import Callable

from simclr_dist.errors import first_line
from simclr_dist.tracking.lines import Lines
from simclr_dist.tracking.sink import Sink, Tell

_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 30.0, 600.0


class Feed:
    """Sends what is new each time it is asked to. An error is a line for the user, and no more."""

    def __init__(self, open_sink: Callable[[], Sink], open_lines: Callable[[int], Lines], tell: Tell) -> None:
        """``open_lines``: the records after a step. ``open_sink`` is called again after an error, and says anew how far
        the tracker has come.
        """
        self._open_sink, self._open_lines, self._tell = open_sink, open_lines, tell
        self._sink: Sink | None = None
        self._lines = open_lines(0)
        self._pause, self._not_before = _FIRST_PAUSE_SECONDS, 0.0
        self.error: Exception | None = None
        """Why the last attempt failed; None when it did not."""
        self.sent_step = 0
        """The newest step that the tracker has."""

    def send(self, progress: Callable[[int], object] = lambda steps: None, *, now: bool = False) -> bool:
        """Send all that is there; whether it was. After an error only when the pause is over, or ``now``.

        ``progress`` hears how many steps were sent.
        """
        if not now and time.monotonic() < self._not_before:
            return False
        return self._attempt(lambda sink: self._send_rest(sink, progress))

    def finish(self, *, finished: bool) -> bool:
        """Send the results and close the run; whether that was done."""

        def close(sink: Sink) -> None:
            sink.send_results()
            sink.close(finished=finished)

        return self._attempt(close)

    def _send_rest(self, sink: Sink, progress: Callable[[int], object]) -> None:
        while (records := self._lines.read()) is not None:
            if records:
                sink.send(records)
                self.sent_step = int(records[-1]["step"])
                progress(len(records))
        sink.caught_up()

    def _attempt(self, action: Callable[[Sink], None]) -> bool:
        try:
            if self._sink is None:
                self._sink = self._open_sink()
                self._lines = self._open_lines(self._sink.last_step)
                self.sent_step = self._sink.last_step
            action(self._sink)
        except Exception as error:  # of a library that must not matter to the run
            if self.error is None:
                self._tell(f"fails: {type(error).__name__}: {first_line(error)}")
            self.error, self._sink = error, None
            self._not_before = time.monotonic() + self._pause
            self._pause = min(2 * self._pause, _LONGEST_PAUSE_SECONDS)
            return False
        if self.error is not None:
            self._tell("is reached again; what it missed was sent")
        self.error, self._pause, self._not_before = None, _FIRST_PAUSE_SECONDS, 0.0
        return True
