"""What a job asks of the cluster: the options of ``submit``, and profiles that keep a cluster's usual ones."""

import dataclasses
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from simclr_dist.errors import UserError, first_line, nearest
from simclr_dist.storage.yaml_text import load_yaml


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


def resources(profile: str | None, given: dict[str, Any]) -> tuple[Resources, Path | None]:
    """The resources of a profile with what is ``given`` instead, and the profile's file.

    Args:
        profile: a YAML file, or the name of one in the profiles' folder; None: ``default`` there, when it exists.
        given: values by field name.

    Raises:
        UserError: no such profile, or a key or value in it that is wrong.
    """
    path = _profile_file(profile)
    stored = _read(path) if path else {}
    return _without_second_answers(dataclasses.replace(Resources(**stored), **given), {*stored, *given}), path


def from_record(stored: dict[str, Any], given: dict[str, Any]) -> Resources:
    """Those of an earlier submission, with what is given instead; keys that this version does not know are left out."""
    known = {field.name for field in dataclasses.fields(Resources)}
    kept = {key: _frozen(value) for key, value in stored.items() if key in known}
    return _without_second_answers(dataclasses.replace(Resources(**kept), **given), set(given))


def _without_second_answers(wanted: Resources, chosen: set[str]) -> Resources:
    """``wanted``, with as many GPUs a node as its gres asks for; ``chosen``: the fields that are no defaults.

    Raises:
        UserError: --sbatch asks for what an option of submit asks for, or for another number of GPUs.
    """
    for word in wanted.sbatch:
        key, _, value = word.removeprefix("--").partition("=")
        if (option := _OWN.get(key.replace("_", "-"))) is not None:
            raise UserError(f"--sbatch {word}: {option}")
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


def _profiles() -> Path | None:
    """The folder of the user's profiles; None: this user has no home."""
    try:
        return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "simclr_dist"
    except RuntimeError:
        return None


def _profile_file(profile: str | None) -> Path | None:
    folder = _profiles()
    if profile is None:
        default = folder / "default.yaml" if folder else None
        return default if default and default.is_file() else None
    for path in (Path(profile), *([folder / f"{profile}.yaml"] if folder else [])):
        if path.is_file():
            return path
    if folder is None:
        raise UserError(f"--profile: '{profile}' is no file, and this user has no home folder with profiles; give one")
    there = ", ".join(sorted(path.stem for path in folder.glob("*.yaml"))) or "none"
    raise UserError(f"--profile: '{profile}' is no file, and no profile in {folder} ({there})")


def _read(path: Path) -> dict[str, Any]:
    try:
        content = load_yaml(path.read_text(encoding="utf-8"), _type_of) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path}: cannot be read as YAML: {first_line(error)}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: must hold KEY: VALUE lines named as the options of submit, such as 'partition: gpu'")
    known = {field.name: field for field in dataclasses.fields(Resources)}
    values = {}
    for word, value in content.items():
        name = str(word).replace("-", "_")
        if name not in known:
            raise UserError(f"{path}: unknown key '{word}'{nearest(name, list(known))}; keys are the options of submit")
        values[name] = _checked(path, str(word), value, known[name].default)
    return values


def _type_of(key: str) -> type | None:
    """Text but for the counts: an account is 0123, a time limit 12:30."""
    name = key.partition(".")[0].replace("-", "_")
    return None if isinstance(getattr(Resources, name, None), int) else str


def _checked(path: Path, word: str, value: Any, default: Any) -> Any:
    if isinstance(default, tuple):
        if isinstance(value, dict):
            value = [key if each is None else f"{key}={each}" for key, each in value.items()]
        return _frozen(value) if isinstance(value, list) else (str(value),)
    if isinstance(default, int):
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise UserError(f"{path}: {word} is '{value}'; give a whole number")
        return value
    if isinstance(value, list | dict | bool):
        raise UserError(f"{path}: {word} is '{value}'; give one word or number")
    if value is None:
        raise UserError(f"{path}: {word} has no value; give it one, or remove the line")
    return str(value)


def _frozen(value: Any) -> Any:
    return tuple(map(str, value)) if isinstance(value, list) else value
