"""SLURM's commands, and the job that this is part of."""

import os
import shutil
from collections.abc import Iterator

from simclr_dist.distributed.launchers import job_here
from simclr_dist.doctor.findings import NOTE, Finding

_AREA = "SLURM"
_COMMANDS = ("sbatch", "srun", "scontrol", "scancel", "sinfo")


def findings() -> Iterator[Finding]:
    """Which commands are there."""
    there = [name for name in _COMMANDS if shutil.which(name)]
    missing = [name for name in _COMMANDS if name not in there]
    if not there:
        cure = (
            "simclr-dist submit, status and cancel work on a login node only; here: simclr-dist pretrain --processes N"
        )
        yield Finding(_AREA, "commands", "none", NOTE, cure)
    elif missing:
        yield Finding(_AREA, "commands", ", ".join(there), NOTE, f"not there: {', '.join(missing)}")
    else:
        yield Finding(_AREA, "commands", ", ".join(there))
    if there and not shutil.which("sacct"):
        cure = "jobs that ended some minutes ago are forgotten: simclr-dist status then goes by the run folder alone"
        yield Finding(_AREA, "sacct", "not there", NOTE, cure)
    if job := job_here():
        where = os.environ.get("SLURM_JOB_NODELIST", "unknown nodes")
        yield Finding(_AREA, "job", f"{job} on {where}, started again {os.environ.get('SLURM_RESTART_COUNT', 0)} times")
