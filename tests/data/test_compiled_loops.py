"""What numba compiles is kept where it can be, in an install that cannot be written and without a home."""

import os
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import numba
import pytest
import torch

import simclr_dist
from simclr_dist.data.rendering import numba_
from simclr_dist.data.rendering.kernels import cache_folder
from simclr_dist.data.rendering.kernels.turns import beside, one_after_another
from tests.support.views import parameters

SCRIPT = """
import numpy as np
from simclr_dist.data.rendering.kernels import colors
colors.solarize(np.zeros((3, 4), np.uint8), 128)
print(colors.solarize.stats.cache_path, len(colors.solarize.stats.cache_hits))
"""


@pytest.fixture
def install(tmp_path) -> Path:
    """The package where no ``__pycache__`` can be made: a file has its place, which stops root too."""
    package = tmp_path / "install" / "simclr_dist"
    here = Path(simclr_dist.__file__).parent
    shutil.copytree(here, package, ignore=shutil.ignore_patterns("__pycache__"))
    (package / "data" / "rendering" / "kernels" / "__pycache__").touch()
    return package.parent


def run(install: Path, temporary: Path, **more: str) -> tuple[str, int, list[str]]:
    """Compile one loop in a fresh process: (the folder, how often it was found there, what was said)."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("NUMBA", "XDG", "RANK"))}
    done = subprocess.run(
        [sys.executable, "-B", "-c", SCRIPT],
        env={**environment, "PYTHONPATH": str(install), "HOME": "/dev/null", "TMPDIR": str(temporary), **more},
        cwd=install, capture_output=True, text=True, check=True,
    )  # fmt: skip
    folder, hits = done.stdout.split()
    return folder, int(hits), done.stderr.splitlines()


def test_loops_of_a_read_only_install_without_a_home_are_kept_in_a_folder_of_this_user_alone(install, tmp_path):
    folder, hits, said = run(install, tmp_path)
    private = tmp_path / f"simclr_dist-{os.getuid()}"
    assert Path(folder).is_relative_to(private)
    assert private.stat().st_mode & 0o777 == 0o700
    assert hits == 0
    assert len(said) == 1
    assert f"kept in {private}" in said[0]
    assert "NUMBA_CACHE_DIR" in said[0]
    assert run(install, tmp_path, RANK="1") == (folder, 1, [])


def test_a_folder_that_others_can_write_is_no_place_for_code(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    private = tmp_path / f"simclr_dist-{os.getuid()}"
    assert cache_folder.find_folder() == private
    private.chmod(0o777)
    assert cache_folder.find_folder() is None
    assert "every process compiles its own" in capsys.readouterr().err.splitlines()[1]


def test_what_preparing_compiles_for_the_colours_is_what_views_use(monkeypatch):
    types: dict[str, list[object]] = {}
    monkeypatch.setattr(numba_, "_is_compiled", lambda: False)
    monkeypatch.setattr(numba_, "_color", lambda *given: types.update(prepared=[numba.typeof(each) for each in given]))
    monkeypatch.setattr(numba_, "_view", lambda *given: types.update(used=[numba.typeof(each) for each in given[5:]]))
    image, drawn = torch.zeros(8, 8, 3, dtype=torch.uint8).permute(2, 0, 1), parameters(color=True, sigma=1.0)
    numba_.prepare(image, drawn, 0, 8)
    assert types["prepared"] == types["used"]
    numba_.render_view(image, drawn, 0, 8, "affine")
    assert types["prepared"] == types["used"]


def test_a_start_that_finds_all_compiled_waits_for_nobody_and_starts_no_process(monkeypatch):
    def prepare() -> None:
        image = torch.zeros(8, 8, 3, dtype=torch.uint8).permute(2, 0, 1)
        numba_.prepare(image, parameters(), 0, 8)

    prepare()
    monkeypatch.setattr(numba_, "one_after_another", None)
    monkeypatch.setattr(numba_, "beside", None)
    prepare()


def test_what_is_done_beside_is_done_by_another_process_before_the_block_ends(tmp_path):
    with beside(lambda: (tmp_path / "who").write_text(str(os.getpid()))):
        pass
    assert int((tmp_path / "who").read_text()) != os.getpid()


def test_a_second_process_compiles_only_after_the_first(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    seen: list[str] = []

    def other() -> None:  # each opening of the file has a lock of its own, in a process as between them
        with one_after_another("x"):
            seen.append("other")

    with one_after_another("x"):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join(0.2)
        seen.append("first")
    thread.join()
    assert seen == ["first", "other"]


def test_without_a_folder_for_the_lock_it_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    with one_after_another("x"):
        pass
    assert not (tmp_path / "missing").exists()
