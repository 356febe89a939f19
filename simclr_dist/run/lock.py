"""One run, one writer: the lock of a run folder, which no crash leaves behind and which stops whoever has lost it.

The file ``RUN_DIR/lock_<number>.json`` says who holds the folder; its holder touches it every ten seconds. To take over
from a holder that is gone is to make the file of the next number, which only one process can. Whoever finds its own
file gone, or one with a higher number, has lost the lock and writes nothing more. docs/design/run_lock.md compares this
with the locks of file systems.
"""

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from simclr_dist.distributed.agreement import decided_by_first
from simclr_dist.distributed.collectives import process_rank
from simclr_dist.errors import UserError
from simclr_dist.log import log
from simclr_dist.run.lock_files import Held, LockFiles
from simclr_dist.run.lock_owner import Owner
from simclr_dist.run.writing import writing

BEAT_SECONDS = 10.0
SILENT_SECONDS = 120.0


class RunLock:
    """The lock of one run folder. Every process makes one and enters it; rank 0 holds it. Left, it is free again."""

    def __init__(
        self,
        folder: str | Path,
        job_has_ended: Callable[[str], bool] = lambda job: False,
        *,
        owner: Owner | None = None,
        beat_seconds: float = BEAT_SECONDS,
        silent_seconds: float = SILENT_SECONDS,
    ) -> None:
        """Nothing is written yet.

        Args:
            folder: of the run.
            job_has_ended: whether SLURM knows that a job has ended.
            owner: who wants it; this process.
            beat_seconds: between two signs of life.
            silent_seconds: a holder on another host that gave no sign of life for so long, by the clock of the one who
                watches, is gone.
        """
        self.folder = Path(folder)
        self.owner = owner or Owner.here()
        self.beat_seconds, self.silent_seconds = beat_seconds, silent_seconds
        self.colleagues: set[str] = set()
        """Owners' tokens, of processes of this very run: one of them that holds the folder is out by agreement."""
        self.is_lost = False
        """Whether a sign of life found that another process has taken over; always False on other ranks than 0."""
        self._job_has_ended = job_has_ended
        self._files = LockFiles(self.folder, self.owner)
        self._file: Path | None = None
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="run lock", daemon=True)
        self._watched: Held | None = None
        self._since = 0.0

    def __enter__(self) -> "RunLock":
        return self

    def __exit__(self, *_: object) -> None:
        self._left.set()
        if self._file is None:
            return
        self._thread.join(timeout=5)
        with suppress(OSError):
            if self._files.is_held(self._file):
                self._file.unlink()

    def take(self) -> None:
        """Take the lock of a folder that is there; every process calls this and waits for rank 0.

        Raises:
            UserError: another process is at the run, or the folder cannot be written.
        """
        # Rank 0 may have to watch another host's holder for minutes: the others' collectives must not time out.
        while not decided_by_first(self._try):
            pass
        if process_rank() == 0 and not self._thread.is_alive():
            self._thread.start()

    def check(self) -> None:
        """On rank 0, before a write that must not happen beside another holder's.

        Raises:
            UserError: the lock is lost, or cannot be read.
        """
        if self._file is None:
            return
        try:
            self.is_lost = self.is_lost or not self._files.is_held(self._file)
        except OSError as error:
            raise UserError(f"{self._file}: cannot be read ({error.strerror}), so nothing is written") from error
        if self.is_lost:
            raise UserError(self.loss())

    def loss(self) -> str:
        """The message when the lock is lost."""
        taker = None
        with suppress(OSError):
            taker = self._files.newest().holder
        what = f"{taker.description()} has taken this run over" if taker else "somebody removed its lock"
        return (
            f"machine.run_dir: {self.folder}: {what} while this process gave no sign of life; it stops and writes "
            "nothing more"
        )

    def _beat(self) -> None:
        assert self._file is not None
        while not self._left.wait(self.beat_seconds):
            try:
                self.is_lost = not self._files.is_held(self._file)
                if self.is_lost:
                    return
                os.utime(self._file)  # which never makes a file that another process has removed
            except OSError:  # gone, as the next check finds; or a file server that may answer later
                continue

    def _try(self) -> bool:
        """Take it if it is free. False: ask again, the present holder is being watched, or another was faster."""
        if self._file is not None:  # held since an earlier group of the same run
            self.check()
            return True
        with writing(self.folder):
            held = self._files.newest()
            if held.number and not self._is_free(held):
                time.sleep(min(1.0, self.silent_seconds / 10))
                return False
            self._file = self._files.make_next(held)
        return self._file is not None

    def _is_free(self, held: Held) -> bool:
        """Whether the holder is gone; a UserError when it lives."""
        here, holder = self.owner, held.holder
        if holder is not None:
            if holder.token in self.colleagues:
                return True
            restarts = here.restarts_of_same_job(holder)
            if restarts is not None and restarts != here.restarts:
                if restarts > here.restarts:  # this process is what is left of a node that SLURM gave up
                    raise UserError(f"{self.folder}: SLURM has started this job again: {holder.description()} is at it")
                return True
            if here.shares_pid_namespace(holder):
                if holder.is_dead():
                    return True
                device, inode = self._files.place()
                if holder.device in (None, device):
                    if holder.inode in (None, inode):
                        raise self._in_use(held)
                    log.info("%s: a copy of a folder in use; the lock in it is a copy, too", self.folder)
                    return True
                # On another device: a copy there, or the folder itself, mounted a second time. Watch.
        if self._watched is None or (self._watched.number, self._watched.holder) != (held.number, held.holder):
            if holder and holder.job and holder.cluster == here.cluster and self._job_has_ended(holder.job):
                return True
            self._watched, self._since = held, time.monotonic()
            log.warning(
                f"{self.folder}: held by {_name_of(holder)}; watching for {self.silent_seconds:.0f} s whether it lives"
            )
        elif self._watched != held:
            raise self._in_use(held)
        return time.monotonic() - self._since >= self.silent_seconds

    def _in_use(self, held: Held) -> UserError:
        age = max(0.0, self._files.now() - held.changed / 1e9)  # both by the server's clock: those of hosts differ
        return UserError(
            f"machine.run_dir: {self.folder} is in use by {_name_of(held.holder)}; last sign of life {age:.0f} s ago; "
            "wait until it has ended, stop it, or choose another machine.run_dir (when you are sure that nothing "
            f"writes there any more: rm {self.folder}/lock_*.json)"
        )


def _name_of(holder: Owner | None) -> str:
    return holder.description() if holder else "a process that is just starting"
