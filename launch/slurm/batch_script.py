"""The batch script of a job, in submitit's words, and the small script that starts each of its processes."""

import shlex
import sys
from pathlib import Path
from typing import Any

from simclr_dist.errors import UserError, first_line
from simclr_dist.launch.slurm.quoting import for_line, for_list, for_pattern, for_python, for_shell
from simclr_dist.launch.slurm.resources import Resources

# A notice that comes before the process listens would end it, and the job with it: until then it waits. bash can only
# ignore signals, so a Python of some milliseconds blocks them and becomes the real one.
_START = """#!/bin/bash
# Starts one process of this job, with the code of its submission.
trap '' USR1 USR2
export PYTHONPATH={code}"${{PYTHONPATH:+:$PYTHONPATH}}" SIMCLR_DIST_RENDEZVOUS={folder}
hold='import os, signal, sys; signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1, signal.SIGUSR2]); \
os.execvp(sys.argv[1], sys.argv[1:])'
"""
_ONCE = """exec {python} -S -c "$hold" {python} -u -P -m simclr_dist "$@"
"""
# Where the others go on, one that was killed comes back: as with the launcher of one machine.
_AGAIN = """trap 'stopped=1' TERM INT HUP
for start in 1 2 3 4; do
    {python} -S -c "$hold" {python} -u -P -m simclr_dist "$@"
    status=$?
    case $status in 134|135|136|137|139) ;; *) break ;; esac
    [ -z "$stopped" ] && [ "$start" -lt 4 ] || break
    sleep 5
    echo "simclr-dist: process $SLURM_PROCID was killed (status $status) and is started again"
done
exit $status
"""


REQUEUE_STATUS = 75
"""Status of a process that has saved and whose job is to be queued again: EX_TEMPFAIL of sysexits.h."""

# In a container there is no scontrol. Outside, process 0 has done it, and the job is RUNNING no more; or the controller
# did not answer it, and may be away still.
_STATUS = "status=$?"
# Where the others go on, srun's status is that of the worst process, a lost one.
_STATUS_OF_RUN = """for said in {folder}/.simclr_dist_"$SLURM_JOB_ID"_*_"${{SLURM_RESTART_COUNT:-0}}".status; do
    [ -f "$said" ] && status=$(cat "$said")
done"""
# The job by the name of distributed.launchers.job_here: of an array, this task and never all.
_QUEUE_AGAIN = f"""if [ "$status" = {REQUEUE_STATUS} ]; then
    job=$SLURM_JOB_ID
    [ "$job" = "$SLURM_ARRAY_JOB_ID" ] && job="$job"_"$SLURM_ARRAY_TASK_ID"
    for _ in $(seq 30); do
        if state=$(scontrol show job "$job"); then
            case $state in *JobState=RUNNING*) scontrol requeue "$job" && break ;; *) break ;; esac
        fi
        sleep 2
    done
fi
exit "$status\""""

_BY_THE_SAME_NAME = ("partition", "time", "account", "qos", "constraint", "exclude", "mem")


def start_script(folder: Path, code: Path, python: str, *, goes_on: bool = False) -> str:
    """Text of the script that starts one process; in ``folder`` the processes meet.

    ``goes_on``: the others go on when it is killed, and it is started again.
    """
    text = _START + (_AGAIN if goes_on else _ONCE)
    return text.format(code=for_shell(for_python(code)), folder=for_shell(folder), python=python)


def batch_script(
    wanted: Resources,
    *,
    name: str,
    folder: Path,
    code: Path,
    arguments: str,
    mounts: list[Path],
    tasks: int,
    goes_on: bool = False,
) -> str:
    """Text of the batch script.

    Args:
        wanted: what to ask of the cluster.
        name: of the job.
        folder: where the start script stands and the logs go.
        code: what the start script puts on PYTHONPATH.
        arguments: for ``simclr-dist``, ready for the shell.
        mounts: folders that a container must see.
        tasks: of a job array; 0: no array.
        goes_on: whether the job goes on when a process or a node is lost.

    Raises:
        UserError: submitit is not installed, or refuses an option, or a name cannot stand in such a script.
    """
    try:
        from submitit.slurm.slurm import _make_sbatch_string
    except ImportError as error:
        raise UserError("submit needs submitit: pip install 'simclr_dist[slurm]'") from error
    for_line("machine.run_dir", str(folder))
    for_python(code)
    log = f"{for_pattern(folder)}/{'%A_%a' if tasks else '%j'}_%t_log.out"
    extra: dict[str, Any] = {
        "requeue": True,
        **({"no-kill": True} if goes_on else {}),
        "output": f"{log.removesuffix('%t_log.out')}0_log.out",
        **dict(_pair(word) for word in wanted.sbatch),
    }
    options: dict[str, Any] = {
        "job_name": name,
        "nodes": wanted.nodes,
        "ntasks_per_node": wanted.processes_per_node,
        "gpus_per_node": None if wanted.names_gpus_itself else wanted.gpus_per_node or None,
        "cpus_per_task": wanted.cpus_per_task or None,
        "setup": list(wanted.setup) or None,
        "teardown": [_STATUS, *([_STATUS_OF_RUN.format(folder=for_shell(folder))] if goes_on else []), _QUEUE_AGAIN],
        "wckey": None,
        **{key: getattr(wanted, key) or None for key in _BY_THE_SAME_NAME},
    }
    for key, value in {**options, **extra}.items():
        if key not in ("setup", "teardown"):
            for_line(key.replace("_", "-"), str(value))
    command = for_shell(folder / "start")
    srun = shlex.join(["srun", "--unbuffered", "--output", log, *_srun(wanted, mounts, goes_on)])
    try:
        text: str = _make_sbatch_string(
            f"{srun} \\\n    {_inside(wanted.container, mounts)}{command} {arguments}",
            folder,
            **options,  # None leaves an option out; for time submitit itself has five minutes
            signal_delay_s=wanted.notice_seconds,
            stderr_to_stdout=True,
            map_count=tasks or None,
            additional_parameters=extra,
            use_srun=False,  # its own would replace %j and %t in the folder's name too
        )
    except (TypeError, ValueError) as error:
        raise UserError(f"submitit refuses these options: {first_line(error)}") from error
    return text


def python_command(wanted: Resources) -> str:
    """What starts Python on the nodes, ready for the shell."""
    return wanted.python or ("python3" if wanted.container else for_shell(sys.executable))


def _srun(wanted: Resources, mounts: list[Path], goes_on: bool) -> list[str]:
    # A process that dies would leave the job holding its nodes, unless the others go on. Since SLURM 22.05 srun does
    # not take --cpus-per-task over from the batch script.
    words = ["--no-kill", "--kill-on-bad-exit=0"] if goes_on else ["--kill-on-bad-exit=1"]
    if wanted.cpus_per_task:
        words.append(f"--cpus-per-task={wanted.cpus_per_task}")
    if wanted.container and not _is_apptainer(wanted.container):
        words += [f"--container-image={wanted.container}", f"--container-workdir={Path.cwd()}"]
        inside = [for_list(path, "pyxis") for path in mounts]
        words.append(f"--container-mounts={','.join(f'{path}:{path}' for path in inside)}")
    return words


def _inside(container: str, mounts: list[Path]) -> str:
    if not _is_apptainer(container):
        return ""
    binds = [word for path in mounts for word in ("--bind", for_list(path, "apptainer"))]
    return shlex.join(["apptainer", "exec", "--nv", *binds, container]) + " "


def _is_apptainer(container: str) -> bool:
    return container.endswith(".sif")


def _pair(word: str) -> tuple[str, Any]:
    key, equals, value = word.removeprefix("--").partition("=")
    if not key:
        raise UserError(f"--sbatch: '{word}' is no option; give KEY=VALUE as in --sbatch mail-type=END")
    return key, value if equals else True
