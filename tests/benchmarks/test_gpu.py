"""benchmarks/gpu.py: its rehearsal on this CPU, and that no section is lost to another."""

import json
import os
import signal
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def gpu(monkeypatch):
    """The command as a module."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return import_module("gpu")


def row(what, figure, numbers=None, wanted="", holds=None):
    """A row of a section."""
    return import_module("gpu_sections.here").Row(what, figure, numbers or {}, wanted, holds)


def test_the_rehearsal_goes_through_every_section(gpu, tmp_path):
    command = [sys.executable, "benchmarks/gpu.py", "--rehearsal", "--minutes", "30", "--out", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no GPU here: a rehearsal" in done.stdout
    found = json.loads((tmp_path / "gpu.json").read_text())
    table = (tmp_path / "gpu.md").read_text()
    assert found["card"] == {}
    assert "a rehearsal on a CPU: no number counts" in table
    assert list(found["sections"]) == [section.name for section in gpu.gpu_sections.SECTIONS]
    for name, section in found["sections"].items():
        assert section["state"] == "done"
        assert section["rows"], name
        for line in section["rows"]:
            assert line["holds"] is not False, line
            assert line["what"] in table
    promised = {line["what"] for section in found["sections"].values() for line in section["rows"] if line["holds"]}
    assert {"verify, 1 process", "an overflow", "the compiled step's gradient, float32"} <= promised
    losses = [line["numbers"]["error"] for line in found["sections"]["loss"]["rows"] if "error" in line["numbers"]]
    assert len(losses) >= 2
    assert max(losses) < 1e-5


def test_a_section_that_fails_dies_or_hangs_keeps_its_rows_and_harms_no_other(gpu, tmp_path, monkeypatch, capsys):
    def fails(here):
        yield row("before", "kept")
        raise ValueError("odd number")

    def dies(here):
        yield row("before", "kept")
        os.kill(os.getpid(), signal.SIGKILL)

    def hangs(here):
        child = subprocess.Popen(["sleep", "600"])
        yield row("before", "kept", {"child": child.pid})
        time.sleep(600)

    def works(here):
        yield row("a | b", "found", wanted="much", holds=False)

    sections = []
    for rows in (fails, dies, hangs, works):
        module = ModuleType(f"gpu_sections.{rows.__name__}")
        module.rows = rows
        monkeypatch.setitem(sys.modules, module.__name__, module)
        sections.append(gpu.gpu_sections.Section(rows.__name__, rows.__name__, 0.1, timed=rows is works))
    monkeypatch.setattr(gpu.gpu_sections, "SECTIONS", tuple(sections))
    assert gpu.main(["--rehearsal", "--out", str(tmp_path)]) == 1
    found = json.loads((tmp_path / "gpu.json").read_text())["sections"]
    assert found["fails"]["state"] == "failed with status 1: ValueError: odd number"
    assert found["dies"]["state"].startswith("failed with status -9")
    assert found["hangs"]["state"].startswith("was ended after 1 s")
    assert [found[name]["rows"][0]["figure"] for name in ("fails", "dies", "hangs", "works")] == [
        *["kept"] * 3,
        "found",
    ]
    child = Path(f"/proc/{found['hangs']['rows'][0]['numbers']['child']}/stat")
    assert not child.exists() or child.read_text().rpartition(")")[2].split()[0] == "Z", "it still sleeps"
    assert "| works | a / b | found | much | FAILS |" in capsys.readouterr().out


def test_without_time_a_section_is_named_and_not_begun(gpu, tmp_path):
    assert gpu.main(["--rehearsal", "--out", str(tmp_path), "--only", "step", "--minutes", "0"]) == 1
    found = json.loads((tmp_path / "gpu.json").read_text())["sections"]
    assert found["step"]["state"] == "was not begun: no time was left"
