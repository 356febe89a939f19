"""SLURM's commands, and what they say about a job."""

import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from simclr_dist.errors import UserError
from simclr_dist.stop_signals import NOTICES

PATIENCE_SECONDS = 60.0
"""How long a controller is waited for that is being restarted; the default notice comes 120 s before the end."""
RETRY_SECONDS = 2.0

LIVING = ("PENDING", "CONFIGURING", "RUNNING", "SUSPENDED", "COMPLETING", "REQUEUED", "REQUEUE_HOLD", "STOPPED")
"""States of a job that has not ended."""

REASONS = {
    "Resources": "waits for nodes that other jobs use",
    "Priority": "other jobs come first",
    "BeginTime": "was put back into the queue and may start again in two minutes at most",
    "Dependency": "waits for another job",
    "JobHeldUser": "held; release it with: scontrol release JOB",
    "JobHeldAdmin": "held by the administrators",
    "PartitionTimeLimit": "asks for more time than the partition gives",
    "PartitionNodeLimit": "asks for more nodes than the partition has",
    "ReqNodeNotAvail": "its nodes are down or reserved",
    "AssocGrpGRES": "the account's share of GPUs is used up",
    "QOSMaxGRESPerUser": "your share of GPUs is used up",
    "NodeDown": "a node was lost",
}


@dataclass(frozen=True)
class Job:
    """What SLURM says about one job, or one task of an array."""

    id: str
    """As scancel takes it: 12, or 12_3."""
    state: str
    reason: str = ""
    nodes: str = ""
    restarts: int = 0
    submitted: str = ""
    run_time: str = ""
    time_limit: str = ""
    exit_code: str = ""
    preempted: bool = False
    """Its nodes are wanted for another job: it has its grace time to end, or has ended."""

    @property
    def lives(self) -> bool:
        """Whether it holds nodes or waits for them."""
        return self.state in LIVING

    def description(self) -> str:
        """One line for a person."""
        if self.state == "PENDING":
            why = REASONS.get(self.reason.split(",")[0], "")
            return f"PENDING since {self.submitted}: {self.reason}{f' ({why})' if why else ''}"
        where = f" on {self.nodes}" if self.nodes else ""
        took = f" for {self.run_time}" if self.run_time else ""
        limit = f" of {self.time_limit}" if self.time_limit else ""
        again = f", started again {self.restarts} times" if self.restarts else ""
        if self.lives:
            return f"{self.state}{where}{took}{limit}{again}"
        status = f", exit status {self.exit_code}" if self.exit_code not in ("", "0:0") else ""
        why = f" ({self.reason})" if self.reason not in ("", "None") else ""
        return f"{self.state}{why}{where}{took}{again}{status}"


class ControllerAwayError(UserError):
    """SLURM's controller does not answer: nothing is known of any job."""


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


def jobs(ids: Sequence[str]) -> list[Job]:
    """Those of the jobs that SLURM remembers; an array's id stands for all its tasks.

    Raises:
        ControllerAwayError: the controller does not answer.
    """
    found: list[Job] = []
    for each in ids:
        done = _run(("scontrol", "--oneliner", "show", "job", each))
        _refuse_away(done)
        here = list(_of_scontrol(done.stdout))
        found += here or list(_of_sacct(each))
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
    Without scontrol, in a container, it is left to the batch script to ask. A controller that does not answer is waited
    for; one that stays away is taken for scancel's, which alone must never bring a job back.
    """
    if number in NOTICES or shutil.which("scontrol") is None:
        return True
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return any(each.state == "RUNNING" and each.preempted for each in jobs([job]))
        except ControllerAwayError:
            if time.monotonic() > deadline:
                return False
            time.sleep(RETRY_SECONDS)


def requeue_if_possible(job: str) -> str:
    """Put a running job back into the queue; in a container, or when SLURM does not, the batch script asks again.

    A controller that does not answer is asked again and again for ``PATIENCE_SECONDS``.

    Returns:
        Why SLURM has not done it; "" when it has, or cannot be asked here.
    """
    deadline = time.monotonic() + PATIENCE_SECONDS
    while shutil.which("scontrol"):
        try:
            call("scontrol", "requeue", job)
            break
        except ControllerAwayError as away:
            if time.monotonic() > deadline:
                return str(away)
            time.sleep(RETRY_SECONDS)
        except UserError as refused:
            return str(refused)
    return ""


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
    return subprocess.run(command, capture_output=True, text=True, check=False)


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


def _of_scontrol(text: str) -> Iterator[Job]:
    for line in text.splitlines():
        facts = dict(re.findall(r"(?:^|\s)([A-Za-z]\w*(?:/\w+)?)=(\S*)", line))
        if "JobState" not in facts:
            continue
        number = facts["JobId"]
        if "ArrayTaskId" in facts:
            number = f"{facts['ArrayJobId']}_{facts['ArrayTaskId']}"
        yield Job(
            id=number,
            state=facts["JobState"],
            reason=facts.get("Reason", ""),
            nodes=facts.get("NodeList", "").replace("(null)", ""),
            restarts=int(facts.get("Restarts", 0)),
            submitted=facts.get("SubmitTime", ""),
            run_time=facts.get("RunTime", ""),
            time_limit=facts.get("TimeLimit", "").replace("UNLIMITED", ""),
            exit_code=facts.get("ExitCode", ""),
            preempted=facts.get("PreemptTime", "None") not in ("None", "N/A", "Unknown"),
        )


def _of_sacct(job: str) -> Iterator[Job]:
    """The accounting remembers jobs that the controller has forgotten; not every cluster has it."""
    if shutil.which("sacct") is None:
        return
    names = ("JobID", "State", "NodeList", "Submit", "Elapsed", "Timelimit", "ExitCode")
    command = ("sacct", "--allocations", "--parsable2", "--noheader", "--format", ",".join(names), "--jobs", job)
    for line in _run(command).stdout.splitlines():
        facts = dict(zip(names, line.split("|"), strict=False))
        if len(facts) == len(names):
            yield Job(
                id=facts["JobID"],
                state=facts["State"].split(" ")[0],
                nodes=facts["NodeList"].replace("None assigned", ""),
                submitted=facts["Submit"],
                run_time=facts["Elapsed"],
                time_limit=facts["Timelimit"],
                exit_code=facts["ExitCode"],
            )
