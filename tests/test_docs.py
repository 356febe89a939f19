"""What the documents say of the repository: the files and links that they name are there."""

import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from simclr_dist.config import load_config, to_dict
from simclr_dist.config.registry import METHODS, method_keys

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
FOLDERS = ("simclr_dist", "launch", "tests", "benchmarks", "script", "docker", "configs")
ROOMS = [path.name for path in (ROOT / "simclr_dist").iterdir() if path.is_dir()]
FILES = {path.name for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")}


def named_files(text: str) -> set[str]:
    """Paths in backticks that can only be the repository's: Python files, and what begins with one of its folders."""
    words = {word for span in re.findall(r"`([^`\n]+)`", text) for word in span.split()}
    ours = re.compile(rf"[\w./]*\w\.py|(?:{'|'.join([*FOLDERS, *ROOMS])}|docs)/[\w./]*")
    return {word for word in words if ours.fullmatch(word) and "NAME" not in word and "WHAT" not in word}


def exists(name: str) -> bool:
    """Whether a path, from the root or below the package, is there; a name alone stands for any file of that name."""
    return name in FILES or any((folder / name).exists() for folder in (ROOT, ROOT / "simclr_dist"))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_file_that_a_document_names_is_there(document):
    assert [name for name in sorted(named_files(document.read_text(encoding="utf-8"))) if not exists(name)] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_link_between_documents_leads_somewhere(document):
    text = re.sub(r"```.*?```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL)
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    assert [link for link in links if link and not (document.parent / link).exists()] == []


def test_a_file_that_is_not_there_is_found():
    gone = {"data/order.py", "benchmarks/gone.py", "run/gone/", "old.py"}
    there = "`data/loading/order.py`, `losses/`, `order.py`, `python benchmarks/loss.py --rows 8192`"
    text = f"{there}, `data/order.py`, `python benchmarks/gone.py FOLDER`, `run/gone/`, `old.py`"
    assert {name for name in named_files(text) if not exists(name)} == gone


@cache
def keys() -> dict[str, Any]:
    """All keys of a config, nested, with the groups of views of every method."""
    found = to_dict(load_config("digits_demo"))
    for name in METHODS:
        of_method = to_dict(load_config("imagenet_resnet50_100", [f"recipe.method.name={name}"]))
        found["recipe"]["views"] |= of_method["recipe"]["views"]
    return found


METHOD = object()
"""Stands for the keys of whatever method."""


def has_key(key: str) -> bool:
    """Whether a config knows a dotted key of ``recipe`` or ``machine``, of any method."""
    node: Any = keys()
    for part in key.split("."):
        if node is METHOD and any(part in vars(method_keys(name)) for name in METHODS):
            return True
        if node == {}:  # recipe.encoder.options: the arguments of whatever encoder
            return True
        if not isinstance(node, dict):
            return False
        groups = node.get("global", {})  # a key directly under views is every group's
        if part not in node and part not in groups:
            return False
        node = METHOD if part == "method" else node.get(part, groups.get(part))
    return True


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_key_that_a_document_names_is_one_of_a_config(document):
    if document.name == "CHANGELOG.md":  # which tells of keys that have moved
        return
    text = document.read_text(encoding="utf-8")
    named = set(re.findall(r"(?<![\w./])(?:recipe|machine)(?:\.[a-z_][a-z_0-9]*)+", text))
    assert [key for key in sorted(named) if not has_key(key)] == []


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 120
