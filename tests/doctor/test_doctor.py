"""The doctor: what it finds here, what a missing package costs, and what several processes find together."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from simclr_dist.distributed.collectives import process_rank
from simclr_dist.distributed.processes import Processes
from simclr_dist.doctor import examination, machine, network, storage, versions
from simclr_dist.doctor.findings import NOTE, OK, PROBLEM, Finding, joined, table
from tests.support.processes import run_distributed


def marks(findings: list[Finding]) -> dict[str, str]:
    return {each.what: each.mark for each in findings}


def test_a_healthy_host_is_told_in_all_areas_and_the_folder_is_left_as_it_was(tmp_path):
    folder, file = tmp_path / "runs", tmp_path / "found.json"
    folder.mkdir()
    text, status = examination.examine(folder, "cpu", file)
    written = json.loads(file.read_text())
    assert status == 0, text
    assert written["processes"] == 1
    areas = list(dict.fromkeys(each["area"] for each in written["findings"]))
    assert areas == ["versions", "host", "GPUs", "SLURM", f"folder {folder}", "processes"]
    assert text == table([Finding(**each) for each in written["findings"]])
    assert "0 problems" in text
    assert list(folder.iterdir()) == []


def test_without_torch_the_doctor_still_says_everything_else_and_that_no_run_starts(tmp_path):
    script = (
        "import sys\nsys.modules['torch'] = None\n"
        f"from simclr_dist.cli.main import main\nmain(['doctor', '--dir', {str(tmp_path)!r}, '--processes', '2'])"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (1, "")
    lines = [" ".join(line.split()) for line in ended.stdout.splitlines()]
    assert "PROBLEM torch not installed" in lines
    assert any(line.startswith("-> no run starts without it: pip install torch") for line in lines)
    assert any("write and flush" in line for line in lines)


def test_a_missing_extra_is_a_note_with_what_it_costs(monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    monkeypatch.setitem(sys.modules, "tqdm", None)
    found = {each.what: each for each in versions.findings()}
    assert found["submitit"].mark == NOTE
    assert "pip install 'simclr_dist[slurm]'" in found["submitit"].cure
    assert (found["tqdm"].mark, found["torch"].mark) == (PROBLEM, OK)


def test_the_package_of_every_extra_that_a_run_may_want_is_known_with_what_a_missing_one_costs(monkeypatch):
    monkeypatch.setattr(versions, "is_there", lambda _: False)
    cures = [each.cure for each in versions.findings()]
    for extra in ("slurm", "export", "timm", "parquet", "wandb", "mlflow", "video", "shards"):
        assert any(f"pip install 'simclr_dist[{extra}]'" in cure for cure in cures), extra
    assert any("recipe.encoder.name=timm/" in cure for cure in cures)


def test_the_version_of_mlflow_is_that_of_the_package_that_the_extra_installs(monkeypatch):
    def installed(name: str) -> str:
        if name != "mlflow-skinny":
            raise versions.PackageNotFoundError(name)
        return "3.1"

    monkeypatch.setattr(versions, "version", installed)
    monkeypatch.setattr(versions, "is_there", lambda _: True)
    assert next(each for each in versions.findings() if each.what == "mlflow").found == "3.1"


def test_a_folder_that_cannot_be_written_is_a_problem_and_the_status_says_so(tmp_path):
    assert marks(list(storage.findings(tmp_path / "nowhere"))) == {"writing": PROBLEM}
    text, status = examination.examine(tmp_path / "nowhere", "cpu", None)
    assert status == 1
    assert "1 problems" in text


def test_the_file_system_of_a_folder_is_that_of_the_deepest_mount_over_it(tmp_path):
    (tmp_path / "mounts").write_text("a / ext4 rw 0 0\nb /data lustre rw 0 0\nc /data/my\\040runs nfs4 rw 0 0\n")
    for point, kind in (("/home", "ext4"), ("/data/x", "lustre"), ("/database", "ext4"), ("/data/my runs/1", "nfs4")):
        assert storage.kind_of(Path(point), tmp_path / "mounts") == kind


@pytest.mark.parametrize(("size", "mark"), [(64 << 20, PROBLEM), (512 << 20, NOTE), (8 << 30, OK)])
def test_the_shared_memory_that_docker_gives_is_a_problem(size, mark):
    assert machine.shared_memory(size).mark == mark


def test_of_other_hosts_only_what_differs_or_is_amiss_is_told():
    def of(torch_version: str, mark: str) -> list[Finding]:
        return [Finding("versions", "torch", torch_version), Finding("host", "/dev/shm", "1 GB", mark)]

    found = joined([("a", of("2.14", OK)), ("b", of("2.14", OK)), ("c", of("2.13", NOTE))])
    assert marks(found) == {"torch": OK, "/dev/shm": OK, "torch on c": NOTE, "/dev/shm on c": NOTE}


def _together(folder: Path) -> list[list[Finding]]:
    rank, device = process_rank(), torch.device("cpu")
    socket.gethostname = lambda: f"host{rank}"  # type: ignore[assignment]
    os.sched_getaffinity = lambda _: set(range(5 + rank))  # type: ignore[assignment]
    here = Processes(rank, 2)
    (folder / str(rank)).mkdir()
    return [list(network.findings(here, device, each)) for each in (folder, folder / str(rank))]


@pytest.mark.parametrize(("cores", "gpus", "mark"), [(1, True, NOTE), (1, False, OK), (2, True, OK)])
def test_a_gpu_that_waits_for_one_loader_worker_is_a_note(monkeypatch, cores, gpus, mark):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus)
    found = network.loader_workers()
    assert (found.mark, found.found) == (mark, f"{cores} a process")


def test_two_processes_find_hosts_clocks_sums_and_whether_they_see_one_folder(tmp_path):
    first, second = run_distributed(2, _together, tmp_path)
    assert [marks(each) for each in first] == [marks(each) for each in second]
    assert marks(first[0]) == {"hosts": OK, "loader workers": OK, "clocks": OK, "all_reduce": OK, "one folder": OK}
    assert first[0][0].found == "1 on host0, 1 on host1; gloo on cpu"
    assert first[0][1].found == "5 to 6 a process"
    assert first[1][-1].mark == PROBLEM
    assert "host1 do not see this one" in first[1][-1].cure
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["0", "1"]
