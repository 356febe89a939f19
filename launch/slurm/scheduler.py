"""SLURM's commands, and what they say about a job."""

import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from simclr_dist.errors import UserError
from simclr_dist.stop_signals import NOTICES

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


def call(*command: str) -> str:
    """What a command of SLURM prints.

    Raises:
        UserError: it is not installed here, or refuses; in its own words.
    """
    done = _run(command)
    if done.returncode:
        raise UserError(f"{command[0]} refuses: {complaint(done.stderr or done.stdout)}")
    return done.stdout


def check_only(script: Path) -> None:
    """Ask SLURM whether it would take a batch script, without submitting it.

    Raises:
        UserError: it would not, and why.
    """
    done = _run(("sbatch", "--test-only", str(script)))
    if done.returncode or "to start at" not in done.stderr:
        raise UserError(f"SLURM would refuse this job: {complaint(done.stderr)}{_what_there_is()}")


def jobs(ids: Sequence[str]) -> list[Job]:
    """Those of the jobs that SLURM remembers; an array's id stands for all its tasks."""
    found: list[Job] = []
    for each in ids:
        here = list(_of_scontrol(_run(("scontrol", "--oneliner", "show", "job", each)).stdout))
        found += here or list(_of_sacct(each))
    return found


def has_ended(job: str) -> bool:
    """Whether SLURM says that a job is over; False when it does not know, or cannot be asked here."""
    if shutil.which("scontrol") is None:
        return False
    found = jobs([job])
    return bool(found) and not any(each.lives for each in found)


def should_requeue(job: str, number: int) -> bool:
    """Whether a job that a signal stopped should be put back into the queue by itself.

    A notice says that its time is nearly up. SIGTERM comes from scancel, from scontrol requeue, or before a preemption;
    only in the last case, which leaves the job RUNNING, does SLURM take a job whose processes end for a failed one.
    Without scontrol, in a container, it is left to the batch script to ask.
    """
    if number in NOTICES or shutil.which("scontrol") is None:
        return True
    return any(each.state == "RUNNING" and each.preempted for each in jobs([job]))


def requeue_if_possible(job: str) -> None:
    """Put a running job back into the queue; in a container the batch script does it.

    Raises:
        UserError: SLURM refuses.
    """
    if shutil.which("scontrol"):
        call("scontrol", "requeue", job)


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
