"""Who holds a run folder, and what can be known about it at once: a dead process, a job that was started again."""

import json
import os
import secrets
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from simclr_dist.distributed.launchers import host_here, job_here
from simclr_dist.storage.temporary import pid_namespace


@dataclass(frozen=True, kw_only=True)
class Owner:
    """A process, in words that processes on other hosts understand."""

    token: str
    """Drawn anew by each process that wants the lock: everything else may come again."""
    host: str
    place: str
    """Boot and process namespace. A process id means something only to processes that have both in common: containers
    may share a host's name and count their processes from 1 each. Named as in the lock files of earlier versions."""
    pid: int
    started: int | None
    """When the process started, in ticks since boot: an id alone is given to other processes later. None: unknown."""
    since: str
    job: str | None = None
    """As SLURM's commands call it: 12, or 12_3."""
    restarts: int = 0
    """How often SLURM has started that job again."""
    cluster: str | None = None
    device: int | None = None
    inode: int | None = None
    """With ``device``, as this host numbers them: of the folder that is held, set when it is. None: unknown."""

    @classmethod
    def here(cls) -> "Owner":
        """This process."""
        return cls(
            token=secrets.token_hex(16),
            host=host_here(),
            place=pid_namespace(),
            pid=os.getpid(),
            started=_start_of(os.getpid()),
            since=datetime.now().astimezone().isoformat(timespec="seconds"),
            job=job_here(),
            restarts=int(os.environ.get("SLURM_RESTART_COUNT") or 0),
            cluster=os.environ.get("SLURM_CLUSTER_NAME"),
        )

    @classmethod
    def read(cls, content: bytes) -> "Owner | None":
        """What :meth:`written` made; None for anything else, such as a file that is still being written."""
        try:
            return cls(**json.loads(content))
        except (ValueError, TypeError):
            return None

    def written(self) -> bytes:
        """For the lock's file, readable by people."""
        return (json.dumps(asdict(self), indent=1) + "\n").encode()

    def description(self) -> str:
        """For a message."""
        again = f", started again {self.restarts} times" if self.restarts else ""
        job = f" (SLURM job {self.job}{again})" if self.job else ""
        return f"process {self.pid} on host {self.host}{job} since {self.since}"

    def shares_pid_namespace(self, other: "Owner") -> bool:
        """Whether the process id of the one means the same to the other."""
        return (self.host, self.place) == (other.host, other.place)

    def is_dead(self) -> bool:
        """Whether the process has ended; only for one that shares this process's namespace."""
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:  # another user's: it lives
            pass
        started = _start_of(self.pid)
        if self.started is not None and started is not None and started != self.started:
            return True
        return _is_zombie(self.pid)

    def restarts_of_same_job(self, other: "Owner") -> int | None:
        """How often the ``other``'s job was started again, when it is the job of this one too; else None."""
        same = self.job is not None and (self.job, self.cluster) == (other.job, other.cluster)
        return other.restarts if same else None


def _status_of(pid: int) -> list[str]:
    """Fields of /proc/PID/stat from the third on; [] where it cannot be read."""
    try:
        # The second field is the program's name, in brackets and with whatever characters it likes.
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return []


def _start_of(pid: int) -> int | None:
    fields = _status_of(pid)
    return int(fields[19]) if len(fields) > 19 else None


def _is_zombie(pid: int) -> bool:
    """Killed and not yet waited for; a thread that still hangs in a write keeps it alive."""
    if _status_of(pid)[:1] not in (["Z"], ["X"]):
        return False
    try:
        return len(os.listdir(f"/proc/{pid}/task")) <= 1
    except OSError:
        return True
