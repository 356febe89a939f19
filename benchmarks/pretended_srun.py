"""``simclr-dist`` in several processes of this machine as srun and submit's start script would start them.

    python benchmarks/pretended_srun.py N WORDS...

Each has SLURM's variables; one that is killed leaves the others alone and is started again after five seconds. The
status is 0 when one ended with 0.
"""

import os
import subprocess
import sys
import time

_SECONDS_TO_START = 5.0


def main() -> int:
    count, words = int(sys.argv[1]), sys.argv[2:]
    shared = {
        "SLURM_JOB_ID": str(os.getpid()), "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": str(count),
        "SLURM_STEP_TASKS_PER_NODE": str(count), "SLURM_NODEID": "0", "GLOO_SOCKET_IFNAME": "lo",
        "SLURMD_NODENAME": "127.0.0.1",
    }  # fmt: skip

    def start(rank: int) -> "subprocess.Popen[bytes]":
        own = {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)}
        return subprocess.Popen([sys.executable, "-m", "simclr_dist", *words], env={**os.environ, **shared, **own})

    running = {rank: start(rank) for rank in range(count)}
    again: dict[int, float] = {}
    statuses = []
    while running or again:
        for rank, process in list(running.items()):
            if process.poll() is not None:
                del running[rank]
                if process.returncode < 0:
                    again[rank] = time.monotonic() + _SECONDS_TO_START
                else:
                    statuses.append(process.returncode)
        for rank, moment in list(again.items()):
            if time.monotonic() > moment:
                del again[rank]
                running[rank] = start(rank)
        time.sleep(0.05)
    return min(statuses)


if __name__ == "__main__":
    sys.exit(main())
