"""What docker/ says, as far as it can be read without an engine; docker/check builds and runs the image."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "docker" / "Dockerfile").read_text(encoding="utf-8")
DEFINITION = (ROOT / "docker" / "Apptainer.def").read_text(encoding="utf-8")
IGNORED = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
INSTRUCTIONS = [
    tuple(line.split(maxsplit=1))
    for line in re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", DOCKERFILE, flags=re.MULTILINE)).splitlines()
    if line
]
SCRIPTS = sorted(
    path
    for folder in ("docker", "script", ".ci")
    for path in (ROOT / folder).iterdir()
    if path.read_bytes().startswith(b"#!/bin/sh")
)


def of(instruction: str) -> list[str]:
    return [rest for word, rest in INSTRUCTIONS if word == instruction]


def section(name: str) -> list[str]:
    """The lines of %name in the Apptainer definition."""
    found = re.search(rf"^%{name}\n((?:    .*\n)+)", DEFINITION, flags=re.MULTILINE)
    assert found
    return [line.strip() for line in found[1].splitlines()]


def copied() -> list[str]:
    """What .dockerignore lets through."""
    return [line[1:] for line in IGNORED if line.startswith("!")]


def test_both_images_are_made_by_the_same_script_and_by_nothing_else():
    assert of("RUN") == [f"docker/install {step}" for step in ("system", "packages", "code")]
    assert section("post") == ["EXTRAS={{ EXTRAS }} /opt/simclr_dist/docker/install"]


def test_both_images_hold_the_same_files_of_this_checkout():
    files = [line.split() for line in section("files")]
    assert all(target == f"/opt/simclr_dist/{source}" for source, target in files)
    assert sorted(source for source, _ in files) == sorted(copied())
    assert IGNORED[1] == "*"
    sources = [word for line in of("COPY") for word in line.split()[:-1]]
    assert all((ROOT / path).exists() for path in [*sources, *copied()])
    assert all(any(Path(path).is_relative_to(kept) for kept in copied()) for path in sources if path != ".")


def test_what_setup_hashes_and_setup_py_reads_is_copied_before_the_packages_are_installed():
    before = DOCKERFILE.partition("RUN docker/install packages")[0]
    hashed = re.search(r"cat (.+) &&", (ROOT / "script" / "setup").read_text(encoding="utf-8"))
    assert hashed
    sources = {word for line in re.findall(r"^COPY (.+) \S+$", before, re.MULTILINE) for word in line.split()}
    assert all(path in sources or path.partition("/")[0] in sources for path in hashed[1].split())


def test_both_images_stand_on_the_same_base_pinned_by_version():
    base = of("ARG")[0].removeprefix("BASE=")
    assert re.fullmatch(r"nvidia/cuda:\d+\.\d+\.\d+-base-ubuntu24\.04", base)
    assert of("FROM") == ["${BASE}"]
    assert section("arguments")[0] == f"BASE={base}"


def test_the_image_runs_the_command_as_a_user_without_rights():
    install = (ROOT / "docker" / "install").read_text(encoding="utf-8")
    user = of("USER")[-1]
    assert user not in ("root", "0")
    assert re.search(rf"useradd .* {user}$", install, flags=re.MULTILINE)
    words = [word for word, _ in INSTRUCTIONS]
    assert max(i for i, word in enumerate(words) if word == "RUN") < words.index("USER")
    assert of("ENTRYPOINT") == ['["simclr-dist"]']
    assert section("runscript") == ['exec simclr-dist "$@"']


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shell_scripts_are_shell(script):
    subprocess.run(["sh", "-n", script], check=True)
    assert script.stat().st_mode & 0o111
