"""SLURM's commands, and what they say about a job."""

import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from simclr_dist.errors import UserError
from simclr_dist.launch.slurm.job import OF_SACCT, Job, of_sacct, of_scontrol
from simclr_dist.stop_signals import NOTICES

PATIENCE_SECONDS = 60.0
"""How long a controller is waited for that is being restarted; the default notice comes 120 s before the end."""
RETRY_SECONDS = 2.0

Answer = TypeVar("Answer")


class ControllerAwayError(UserError):
    """SLURM's controller does not answer: nothing is known of any job."""


class UnheardError(UserError):
    """Whether SLURM has taken a job is not known."""


def call(*command: str) -> str:
    """What a command of SLURM prints.

    Raises:
        ControllerAwayError: the controller does not answer.
        UserError: it is not installed here, or refuses; in its own words.
    """
    done = _run(command)
    if done.returncode:
        _refuse_away(done)
        raise UserError(f"{command[0]} refuses: {complaint(done.stderr or done.stdout)}")
    return done.stdout


def check_only(script: Path) -> str:
    """Ask SLURM whether it would take a batch script, without submitting it.

    While nodes are drained or down, the answer is that of nodes that are not there at all, though sbatch takes the job
    and lets it wait for them: only sbatch itself can judge then.

    Returns:
        Why the job may have to wait for nodes that are away; "" when it need not.

    Raises:
        ControllerAwayError: the controller does not answer.
        UserError: it would not, and why.
    """
    done = _run(("sbatch", "--test-only", str(script)))
    if done.returncode == 0 and "to start at" in done.stderr:
        return ""
    _refuse_away(done)
    if away := _nodes_away():
        return f"{complaint(done.stderr)}; it waits for nodes that are away now: {away}"
    raise UserError(f"SLURM would refuse this job: {complaint(done.stderr)}{_what_there_is()}")


def submit(script: Path) -> str:
    """Hand a batch script in; the job's number, an array's that of all its tasks.

    What sbatch hears nothing of may have arrived all the same: the queue is asked then.

    Raises:
        UnheardError: it does not answer, either.
        UserError: SLURM refuses; it has no such job.
    """
    try:
        return call("sbatch", "--parsable", str(script)).strip().partition(";")[0]
    except ControllerAwayError as away:
        try:
            queue = _patiently(lambda: call("squeue", "--me", "--noheader", "--format=%F %o"))
        except UserError:
            raise UnheardError(
                f"{away}; it may have taken the job all the same, whose files stay in {script.parent}: once it answers "
                "look with squeue --me, and end that job with scancel before you submit again"
            ) from away
        taken = [number for number, _, command in (line.partition(" ") for line in queue.splitlines())
                 if command.strip() == str(script)]  # fmt: skip
        if not taken:
            raise
        return taken[0]


def jobs(ids: Sequence[str]) -> list[Job]:
    """Those of the jobs that SLURM remembers; an array's id stands for all its tasks.

    Raises:
        ControllerAwayError: the controller does not answer.
    """
    found: list[Job] = []
    for each in ids:
        done = _run(("scontrol", "--oneliner", "show", "job", each))
        _refuse_away(done)
        found += list(of_scontrol(done.stdout)) or _of_sacct(each)
    return found


def has_ended(job: str) -> bool:
    """Whether SLURM says that a job is over; False when it does not know, or cannot be asked here."""
    if shutil.which("scontrol") is None:
        return False
    try:
        found = jobs([job])
    except ControllerAwayError:
        return False
    return bool(found) and not any(each.lives for each in found)


def should_requeue(job: str, number: int) -> bool:
    """Whether a job that a signal stopped should be put back into the queue by itself.

    A notice says that its time is nearly up. SIGTERM comes from scancel, from scontrol requeue, or before a preemption;
    only in the last case, which leaves the job RUNNING, does SLURM take a job whose processes end for a failed one.
    Without scontrol, in a container, it is left to the batch script to ask; SIGINT and SIGHUP come from the user at a
    terminal, as within salloc, where no batch script does. A controller that does not answer is waited for; one that
    stays away is taken for scancel's, which alone must never bring a job back.
    """
    if number in NOTICES:
        return True
    if shutil.which("scontrol") is None:
        return number == signal.SIGTERM
    try:
        return any(each.state == "RUNNING" and each.preempted for each in _patiently(lambda: jobs([job])))
    except ControllerAwayError:
        return False


def requeue_if_possible(job: str) -> str:
    """Put a running job back into the queue; in a container, or when SLURM does not, the batch script asks again.

    A controller that does not answer is asked again and again for ``PATIENCE_SECONDS``.

    Returns:
        Why SLURM has not done it; "" when it has, or cannot be asked here.
    """
    if shutil.which("scontrol") is None:
        return ""
    try:
        _patiently(lambda: call("scontrol", "requeue", job))
    except UserError as refused:
        return str(refused)
    return ""


def first_node_is_lost(job: str) -> bool:
    """Whether a job's batch script is gone with its node; False when SLURM cannot be asked here."""
    if shutil.which("scontrol") is None:
        return False
    try:
        (found,) = _patiently(lambda: jobs([job]))
        return (
            bool(found.first_node)
            and found.first_node not in call("scontrol", "show", "hostnames", found.nodes).split()
        )
    except (UserError, ValueError):
        return False


def _patiently(ask: Callable[[], Answer]) -> Answer:
    """What SLURM answers, asked again while its controller is away, for ``PATIENCE_SECONDS``.

    Raises:
        ControllerAwayError: it stays away.
        UserError: as ``ask``.
    """
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return ask()
        except ControllerAwayError:
            if time.monotonic() > deadline:
                raise
            time.sleep(RETRY_SECONDS)


def cancel(ids: Sequence[str]) -> None:
    """End jobs, running or waiting.

    Raises:
        UserError: SLURM refuses.
    """
    call("scancel", *ids)


def complaint(text: str) -> str:
    """SLURM's message without its prefixes, in one line."""
    lines = [re.sub(r"^\w+: (error: |fatal: )?", "", line).strip() for line in text.splitlines()]
    return "; ".join(dict.fromkeys(line for line in lines if line)) or "no reason given"


def _run(command: Sequence[str]) -> "subprocess.CompletedProcess[str]":
    if shutil.which(command[0]) is None:
        raise UserError(
            f"{command[0]}: not installed on this machine; run this on a login node of the SLURM cluster, or start "
            "processes here with: simclr-dist pretrain CONFIG --processes N"
        )
    # As file names are read: a job's name or folder need not be UTF-8, and must not end a run that asks for its job.
    return subprocess.run(command, capture_output=True, encoding="utf-8", errors="surrogateescape", check=False)


_AWAY = re.compile(
    r"unable to contact slurm controller|connect failure|connection refused|timed out|zero bytes were transmitted"
    r"|in standby mode|unable to establish controller machine", re.IGNORECASE
)  # fmt: skip


def _refuse_away(done: "subprocess.CompletedProcess[str]") -> None:
    if done.returncode and _AWAY.search(done.stderr or done.stdout):
        raise ControllerAwayError(
            f"SLURM's controller does not answer ({complaint(done.stderr or done.stdout)}); it may be restarting: try "
            "again in a minute"
        )


def _nodes_away() -> str:
    """Nodes that take no job at present, with their states; "" when all do."""
    done = _run(("sinfo", "--noheader", "--format", "%T %N"))
    found = [line.split() for line in done.stdout.splitlines()]
    return "; ".join(f"{names} {state}" for state, names in found if re.match(_UNUSABLE, state) or "*" in state)


_UNUSABLE = r"drain|down|fail|maint|reserved|reboot"


def _what_there_is() -> str:
    done = _run(("sinfo", "--noheader", "--format", "%R: %D nodes of %c CPUs and %G, time limit %l"))
    lines = "; ".join(dict.fromkeys(line.strip() for line in done.stdout.splitlines()))
    return f". Partitions here: {lines}" if lines else ""


def _of_sacct(job: str) -> list[Job]:
    """The accounting remembers jobs that the controller has forgotten; not every cluster has it."""
    if shutil.which("sacct") is None:
        return []
    command = ("sacct", "--allocations", "--parsable2", "--noheader", "--format", ",".join(OF_SACCT), "--jobs", job)
    return list(of_sacct(_run(command).stdout))
