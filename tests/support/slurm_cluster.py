"""A real SLURM cluster of two nodes on this machine, for as long as the tests need it.

Needs root and SLURM's packages (script/system_packages). Two slurmd daemons on one host with pretended CPUs and GPUs,
loopback only, no accounting, no cgroups. Partition ``low`` gives its nodes up to jobs in ``main``. A requeued job may
start again after five seconds instead of two minutes.
"""

import os
import shutil
import socket
import subprocess
from pathlib import Path

from tests.support.waiting import wait_until

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue", "scancel", "sinfo")
NODES = ("n1", "n2")
_CONF = """
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={state}/munge.socket,cred_expire=5
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SwitchType=switch/none
MailProg=/bin/true
StateSaveLocation={state}/controller
SlurmdSpoolDir={state}/spool.%n
SlurmctldPidFile={state}/slurmctld.pid
SlurmdPidFile={state}/slurmd.%n.pid
SlurmctldLogFile={state}/slurmctld.log
SlurmdLogFile={state}/slurmd.%n.log
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,sched_min_interval=0,batch_sched_delay=0,bf_interval=1,requeue_delay=0
JobRequeue=1
KillWait=5
SlurmdTimeout=3
SlurmctldTimeout=6
MessageTimeout=5
TCPTimeout=2
BatchStartTimeout=10
MinJobAge=86400
ReturnToService=2
PropagateResourceLimits=NONE
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
GresTypes=gpu
{nodes}
PartitionName=main Nodes=n[1-2] Default=YES MaxTime=INFINITE PriorityTier=10 PreemptMode=OFF State=UP
PartitionName=low Nodes=n[1-2] MaxTime=INFINITE PriorityTier=1 PreemptMode=REQUEUE GraceTime=10 State=UP
"""


def missing() -> str:
    """Why there can be no cluster here; empty when there can."""
    absent = [name for name in PROGRAMS if shutil.which(name, path=_path()) is None]
    if absent:
        return f"SLURM is not installed ({', '.join(absent)} missing): script/system_packages installs it"
    return "" if os.getuid() == 0 else "only root can start SLURM's daemons"


class Cluster:
    """Started when made; ``environment`` is what its clients need."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.environment = {**os.environ, "SLURM_CONF": str(state / "slurm.conf"), "PATH": _path()}
        controller, *ports = _free_ports(1 + len(NODES))
        self._configure(controller, ports)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        key = state / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        self._start(
            "munged", "--foreground", "--force", f"--key-file={key}", f"--socket={state}/munge.socket",
            f"--pid-file={state}/munged.pid", f"--log-file={state}/munged.log", f"--seed-file={state}/munge.seed",
        )  # fmt: skip
        wait_until(lambda: (state / "munge.socket").exists(), 20, "munged has no socket")
        self._start("slurmctld", "-D")
        for node in NODES:
            self.start_node(node)
        self.wait_idle()

    def start_node(self, node: str) -> None:
        """Start the daemon of a node, again after :meth:`kill_node`."""
        self._start(node, "-D", "-N", node, program="slurmd")

    def kill_node(self, node: str) -> None:
        """SIGKILL to a node's daemon: the controller hears no more of it."""
        self._processes[node].kill()
        self._processes[node].wait()

    def clear(self) -> None:
        """End what runs or waits, and start the daemons that were killed."""
        for node in NODES:
            if self._processes[node].poll() is not None:
                self.start_node(node)
        if self.run("squeue", "-h"):
            self.run("scancel", "--user", "root")
            self.wait_idle()

    def wait_idle(self, seconds: float = 60) -> None:
        """Until all nodes are up and free."""
        wait_until(lambda: self.run("sinfo", "-h", "-N", "-p", "main", "-o", "%T").split() == ["idle"] * len(NODES),
                   seconds, lambda: self.run("sinfo", "-N", "-l") + self.run("squeue"))  # fmt: skip

    def run(self, *command: str) -> str:
        """What a command prints; one that fails prints nothing."""
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=60, check=False)
        return done.stdout

    def state_of(self, job: str) -> str:
        """SLURM's word for the state of a job."""
        shown = self.run("scontrol", "--oneliner", "show", "job", job)
        return shown.partition("JobState=")[2].partition(" ")[0]

    def stop(self) -> None:
        """End all jobs and daemons."""
        try:
            self.clear()
        finally:
            for process in reversed(self._processes.values()):
                process.terminate()
            for process in self._processes.values():
                try:
                    process.wait(timeout=10)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()

    def _start(self, name: str, *arguments: str, program: str = "") -> None:
        with (self.state / f"{name}.out").open("ab") as output:
            self._processes[name] = subprocess.Popen(
                [shutil.which(program or name, path=_path()) or name, *arguments],
                env=self.environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
            )  # fmt: skip

    def _configure(self, controller: int, ports: list[int]) -> None:
        host = socket.gethostname().partition(".")[0]
        nodes = [
            f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=4 RealMemory=2000 Gres=gpu:2"
            for node, port in zip(NODES, ports, strict=True)
        ]
        text = _CONF.format(host=host, controller=controller, state=self.state, nodes="\n".join(nodes))
        (self.state / "slurm.conf").write_text(text)
        for gpu in ("gpu0", "gpu1"):
            (self.state / gpu).touch()
        (self.state / "gres.conf").write_text(f"NodeName=n[1-2] Name=gpu File={self.state}/gpu[0-1]\n")
        # slurmd opens a cgroup plugin although nothing uses one: v1 touches nothing.
        (self.state / "cgroup.conf").write_text(
            f"CgroupPlugin=cgroup/v1\nCgroupMountpoint={self.state}/cgroup\nCgroupAutomount=no\n"
        )
        for folder in ("controller", "cgroup", *(f"spool.{node}" for node in NODES)):
            (self.state / folder).mkdir()
        self.state.chmod(0o755)


def _path() -> str:
    return f"{os.environ['PATH']}:/usr/sbin:/sbin"


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports
