"""What SLURM says of a job, read from what its commands print."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

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
    first_node: str = ""
    """On which its batch script runs, or ran until the node was lost."""
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


def of_scontrol(text: str) -> Iterator[Job]:
    """The jobs that ``scontrol --oneliner show job`` prints."""
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
            first_node=facts.get("BatchHost", ""),
            restarts=int(facts.get("Restarts", 0)),
            submitted=facts.get("SubmitTime", ""),
            run_time=facts.get("RunTime", ""),
            time_limit=facts.get("TimeLimit", "").replace("UNLIMITED", ""),
            exit_code=facts.get("ExitCode", ""),
            preempted=facts.get("PreemptTime", "None") not in ("None", "N/A", "Unknown"),
        )


OF_SACCT = ("JobID", "State", "NodeList", "Submit", "Elapsed", "Timelimit", "ExitCode")
"""The columns that :func:`of_sacct` reads, as ``sacct --parsable2 --format`` takes them."""


def of_sacct(text: str) -> Iterator[Job]:
    """The jobs that ``sacct --parsable2 --noheader`` prints."""
    for line in text.splitlines():
        facts = dict(zip(OF_SACCT, line.split("|"), strict=False))
        if len(facts) == len(OF_SACCT):
            yield Job(
                id=facts["JobID"],
                state=facts["State"].split(" ")[0],
                nodes=facts["NodeList"].replace("None assigned", ""),
                submitted=facts["Submit"],
                run_time=facts["Elapsed"],
                time_limit=facts["Timelimit"],
                exit_code=facts["ExitCode"],
            )
