"""What the run folder keeps of a tracker, RUN/tracking/NAME.json: which run it is there, and how far it was sent."""

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from simclr_dist.errors import UserError
from simclr_dist.run.trackers import tracking_folder
from simclr_dist.storage.atomic import write_atomically


class State:
    """Of each destination (a project, an experiment) of one tracker an entry, and the keys that `track` was given."""

    def __init__(self, run_dir: Path, tracker: str) -> None:
        self._path = tracking_folder(run_dir) / f"{tracker}.json"

    def read(self, destination: str) -> dict[str, Any]:
        """The entry; {} when there is none.

        Raises:
            UserError: the file is not what :meth:`write` wrote. Without it a second run would be made there.
        """
        return dict(self._all()["runs"].get(destination, {}))

    def write(self, destination: str, entry: dict[str, Any]) -> None:
        """
        Raises:
            OSError: as the file system says.
        """
        content = self._all()
        self._write(content | {"runs": content["runs"] | {destination: entry}})

    def forget_runs(self) -> None:
        """The next time it is a new run, wherever it is sent."""
        self._write(self._all() | {"runs": {}})

    def chosen(self) -> dict[str, Any]:
        """The tracker's keys of machine.tracking as a user gave them to `track`."""
        return dict(self._all()["chosen"])

    def choose(self, keys: dict[str, Any]) -> None:
        """These of them hold from now on."""
        content = self._all()
        self._write(content | {"chosen": content["chosen"] | keys})

    def _write(self, content: dict[str, Any]) -> None:
        self._path.parent.mkdir(exist_ok=True)
        write_atomically(self._path, (json.dumps(content, indent=1) + "\n").encode())

    def _all(self) -> dict[str, dict[str, Any]]:
        try:
            found: Any = json.loads(self._path.read_text(encoding="utf-8"))
            if not all(isinstance(entry, dict) for entry in (found["runs"], found["chosen"])):
                raise TypeError
        except FileNotFoundError:
            return {"runs": {}, "chosen": {}}
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(f"{self._path}: cannot be understood; remove it to send the run as a new one") from error
        return found  # type: ignore[no-any-return]


@contextmanager
def sending_alone(run_dir: Path, tracker: str, patience_seconds: float = 0.0) -> Iterator[None]:
    """While the block runs no other process sends this run to this tracker.

    Raises:
        UserError: another one still does after ``patience_seconds``, or the folder cannot be written.
    """
    path = tracking_folder(run_dir) / f"{tracker}.lock"
    try:
        path.parent.mkdir(exist_ok=True)
        lock = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}") from error
    try:
        until = time.monotonic() + patience_seconds
        while True:
            with suppress(OSError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            if time.monotonic() >= until:
                raise UserError(f"{run_dir}: another process sends it to {tracker} now, as a run under way does")
            time.sleep(0.5)
        yield
    finally:
        os.close(lock)
