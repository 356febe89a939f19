"""The versions said to work are those tested: script/test_versions, setup.py and the documents say the same."""

import re
import subprocess
from pathlib import Path

import pytest

from simclr_dist.doctor.findings import PROBLEM
from simclr_dist.doctor.versions import OLDEST, too_old

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "script" / "test_versions"
LOCK = (ROOT / "requirements.lock").read_text(encoding="utf-8")


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def minor(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2])


def pairs() -> list[tuple[tuple[int, ...], ...]]:
    """(Python, torch, torchvision): the pairs of the script, and what script/test runs."""
    listed = subprocess.run([SCRIPT, "--list"], capture_output=True, text=True, check=True).stdout.splitlines()
    (lowest,) = re.findall(r'target-version = "py3(\d+)"', text("pyproject.toml"))  # the lock's, as CI runs it
    locked = [
        f"3.{lowest}",
        *(re.findall(rf"^{name}==(.+)$", LOCK, re.MULTILINE)[0] for name in ("torch", "torchvision")),
    ]
    return [tuple(map(minor, row)) for row in (*(line.split() for line in listed), locked)]


def test_setup_asks_for_the_oldest_tested_versions_and_the_doctor_too():
    found = dict(re.findall(r'"(torch|torchvision)>=([\d.]+)"', text("setup.py")))
    found |= {"python": re.findall(r'python_requires=">=([\d.]+)"', text("setup.py"))[0]}
    pythons, torches, visions = zip(*pairs(), strict=True)
    oldest = {"python": min(pythons), "torch": min(torches), "torchvision": min(visions)}
    assert {name: minor(version) for name, version in found.items()} == oldest
    assert {name: oldest[name] for name in OLDEST} == OLDEST
    assert f"sys.version_info < {min(pythons)}" in text("script/setup")


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md"])
@pytest.mark.parametrize(("name", "column"), [("Python", 0), ("torch", 1)])
def test_the_documents_name_the_oldest_and_the_newest_tested_version(document, name, column):
    versions = [row[column] for row in pairs()]
    (said,) = re.findall(rf"{name} ([\d.]+) to (\d+\.\d+)", text(document))
    assert tuple(map(minor, said)) == (min(versions), max(versions))


def test_the_quick_part_is_of_tests_that_are_there():
    quick = re.findall(r"^tests/\S+", SCRIPT.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(quick) > 5
    for file, _, function in (name.partition("::") for name in quick):
        assert f"def {function}" in text(file), f"{file}::{function}"


def test_a_python_that_is_not_there_is_skipped_and_nothing_run_is_no_success(tmp_path):
    for name in ("dirname", "grep"):
        (tmp_path / name).symlink_to(f"/usr/bin/{name}")
    ended = subprocess.run(
        ["/bin/sh", SCRIPT], env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stdout) == (2, "")
    *skipped, last = ended.stderr.splitlines()
    assert all(re.fullmatch(r"test_versions: skipped Python ([\d.]+) .* no python\1 in PATH", line) for line in skipped)
    assert (len(skipped), last) == (len(pairs()) - 1, "test_versions: nothing was run; the pairs are those of --list")


@pytest.mark.parametrize(
    ("name", "found", "old"),
    [
        ("torch", "2.8.0+cu128", True), ("torch", "2.11.0+cu130", False), ("torch", "3.0", False),
        ("torch", "there, of unknown version", False), ("python", "3.10.13", True), ("numpy", "1.0", False),
    ],
)  # fmt: skip
def test_the_doctor_calls_a_version_below_the_tested_ones_a_problem(name, found, old):
    assert too_old(name, found)[:1] == (PROBLEM,) * old
