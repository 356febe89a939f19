"""What a job asks of the cluster: the options of ``submit``."""

import dataclasses
import re
from dataclasses import dataclass
from typing import Any

from simclr_dist.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Resources:
    """Named as sbatch names them; an empty value leaves the choice to the cluster."""

    nodes: int = 1
    gpus_per_node: int = 1
    """One process is started for each GPU."""
    tasks_per_node: int = 0
    """Processes a node, where that is not the number of GPUs (0)."""
    cpus_per_task: int = 0
    mem: str = ""
    partition: str = ""
    time: str = ""
    account: str = ""
    qos: str = ""
    constraint: str = ""
    exclude: str = ""
    container: str = ""
    """An image for pyxis, or an Apptainer file (.sif); its Python runs the job."""
    python: str = ""
    """Command that starts Python on the nodes; default: the Python that submits, or ``python3`` in a container."""
    setup: tuple[str, ...] = ()
    """Lines of the batch script before the processes start."""
    sbatch: tuple[str, ...] = ()
    """Further options of sbatch as KEY=VALUE."""
    notice_seconds: int = 120
    """How long before the end of its time the job is signalled to save and to queue again."""
    gpu_memory: str = ""
    """Memory of a GPU, such as 80GB; when given, the plan is checked before the job is submitted."""

    @property
    def names_gpus_itself(self) -> bool:
        """Whether --sbatch gres=gpu:... asks for the GPUs, as some clusters want it."""
        return any(_gpus_of_gres(word) is not None for word in self.sbatch)

    @property
    def processes_per_node(self) -> int:
        return self.tasks_per_node or max(1, self.gpus_per_node)

    @property
    def processes(self) -> int:
        """Of the whole job."""
        return self.nodes * self.processes_per_node


LEAST = {"nodes": 1, "gpus_per_node": 0, "tasks_per_node": 1, "cpus_per_task": 1, "notice_seconds": 1}
"""The smallest number that may be given."""

_BY_OPTION = "submit has an option of its own for it, --{}; give that"
_DECIDES = "it decides how many processes there are; give --nodes with --gpus-per-node, or --tasks-per-node"
_SETS = "submit sets it, as the job must be found and queued again; leave it out"
_OWN = {
    **{name: _BY_OPTION.format(name) for name in (
        "nodes", "gpus-per-node", "cpus-per-task", "mem", "partition", "time", "account", "qos", "constraint",
        "exclude",
    )},
    **{short: _BY_OPTION.format(name) for short, name in {
        "N": "nodes", "c": "cpus-per-task", "p": "partition", "t": "time", "A": "account", "q": "qos",
        "C": "constraint", "x": "exclude", "ntasks-per-node": "tasks-per-node",
    }.items()},
    **dict.fromkeys(("ntasks", "n", "gpus", "G", "gpus-per-task", "gpus-per-socket", "ntasks-per-gpu"), _DECIDES),
    **dict.fromkeys(("array", "a", "output", "o", "error", "e", "open-mode", "wrap", "test-only", "parsable"), _SETS),
}  # fmt: skip
"""Option of sbatch -> why --sbatch does not take it: there would be two answers to one question."""


def from_record(stored: dict[str, Any], given: dict[str, Any]) -> Resources:
    """Those of an earlier submission, with what is given instead; keys that this version does not know are left out."""
    known = {field.name for field in dataclasses.fields(Resources)}
    kept = {key: _frozen(value) for key, value in stored.items() if key in known}
    return without_second_answers(dataclasses.replace(Resources(**kept), **given), set(given))


def without_second_answers(wanted: Resources, chosen: set[str]) -> Resources:
    """``wanted``, with as many GPUs a node as its gres asks for; ``chosen``: the fields that are no defaults.

    Raises:
        UserError: --sbatch asks for what an option of submit asks for, twice for one thing, or for other GPUs.
    """
    names = set()
    for word in wanted.sbatch:
        key, _, value = word.removeprefix("--").partition("=")
        name = key.replace("_", "-")
        if (option := _OWN.get(name)) is not None:
            raise UserError(f"--sbatch {word}: {option}")
        if name in names:
            raise UserError(f"--sbatch {word}: {name} is given twice; give it once")
        names.add(name)
        count = _gpus_of_gres(word)
        if count is not None and "gpus_per_node" in chosen and wanted.gpus_per_node != count:
            raise UserError(
                f"--sbatch {key}={value} and --gpus-per-node={wanted.gpus_per_node} differ; give one of them"
            )
        if count is not None:
            wanted = dataclasses.replace(wanted, gpus_per_node=count)
    return wanted


def _gpus_of_gres(word: str) -> int | None:
    """GPUs a node that an option KEY=VALUE of sbatch asks for by gres; None: it asks for none."""
    key, _, value = word.removeprefix("--").partition("=")
    if key != "gres":
        return None
    counts = [
        int(found[1] or 1)
        for each in value.split(",")
        if (found := re.fullmatch(r"(?:gres[:/])?gpu(?:[:=](?!\d+$)[^:=]+)?(?:[:=](\d+))?", each.partition("(")[0]))
    ]
    return sum(counts) if counts else None


def _frozen(value: Any) -> Any:
    return tuple(map(str, value)) if isinstance(value, list) else value
