"""Records of what was submitted: their order, one that cannot be read, and what a run's next job may not change."""

import json
import shutil

import pytest

from simclr_dist.launch.slurm import records
from tests.support.commands import TAKES

pytestmark = pytest.mark.usefixtures("folder")


def submitted(run_dir, job: str, *, text: str = "") -> None:
    """A submission of a run as it leaves it; ``text`` instead of its record."""
    folder = records.new_folder(run_dir)
    record = records.JobRecord(
        job=job, folder=str(folder), config="c", code="c", version="1", submitted_at="now", resources={}, processes=1
    )
    records.write(folder, record)
    if text:
        (folder / "job.json").write_text(text)


def test_the_thousandth_submission_of_a_run_is_its_newest(folder):
    (folder / "run" / "jobs" / "998").mkdir(parents=True)
    for job in ("7", "8"):
        submitted(folder / "run", job)
    assert [record.job for record in records.records_of(folder / "run")] == ["7", "8"]
    assert records.last_record(folder / "run").job == "8"


@pytest.mark.parametrize("text", ["{", "[]", "{}", "\0"])
def test_a_record_that_cannot_be_read_is_a_row_among_the_others(slurm, folder, run, text):
    slurm(scontrol='echo "JobId=$4 JobState=RUNNING"')
    for name in ("a", "c"):
        submitted(folder / name, f"1{name}"[:1])
    submitted(folder / "b", "2", text=text)
    status, out, _ = run("status")
    assert status == 0
    assert [line.split()[:3] for line in out.splitlines()[1:]] == [
        ["a", "1", "RUNNING"], ["b", "-", "UNREADABLE"], ["c", "1", "RUNNING"],
    ]  # fmt: skip
    assert run("status", "1")[0] == 0
    status, _, err = run("status", "b")
    assert (status, "b/jobs/001/job.json: cannot be read as a job's record" in err) == (2, True)


@pytest.mark.parametrize("version", ["this", "an earlier"])
def test_a_moved_run_is_resumed_with_the_config_and_code_that_moved_along_and_its_log_is_read(
    slurm, folder, run, version
):
    slurm(**TAKES)
    assert run("submit", "digits_demo", "machine.run_dir=runs/t", "recipe.seed=7")[0] == 0
    assert run("resume", "runs/t")[0] == 0  # its code is that of 001
    (folder / "runs/t/jobs/002/29_0_log.out").write_text("a line\n")
    if version == "an earlier":
        record = json.loads((folder / "runs/t/jobs/002/job.json").read_text())
        del record["kept_in"]
        (folder / "runs/t/jobs/002/job.json").write_text(json.dumps(record))
    (folder / "runs/t").rename(folder / "runs/moved")
    assert run("submit", "digits_demo", "machine.run_dir=runs/t", "recipe.seed=8")[0] == 0  # another one, at its place
    assert run("logs", "runs/moved")[:2] == (0, "a line\n")
    for words in ([], ["--new-code"]):
        assert run("resume", "runs/moved", *words)[0] == 0
    first, second = folder / "runs/moved/jobs/003", folder / "runs/moved/jobs/004"
    assert "seed: 7\n" in (first / "config.yaml").read_text()
    assert f"run_dir: {folder}/runs/moved\n" in (first / "config.yaml").read_text()
    assert f"PYTHONPATH={folder}/runs/moved/jobs/001/code" in (first / "start").read_text()
    assert f"PYTHONPATH={second}/code" in (second / "start").read_text()


# Every job runs until it is ended; sbatch takes the next one.
LIVE = {
    "scontrol": '[ -e ended_$4 ] || echo "JobId=$4 JobState=RUNNING"',
    "scancel": "for job; do touch ended_$job; done",
    "sbatch": TAKES["sbatch"].replace("echo 29", "echo 30"),
}


@pytest.mark.parametrize(
    ("sweep", "copied"), [(False, "runs/t"), (False, "runs"), (True, "runs/t/seed=0"), (True, "runs/t")]
)
def test_a_copy_of_a_run_folder_has_not_the_jobs_of_the_original_and_is_resumed_beside_it(
    slurm, folder, run, sweep, copied
):
    slurm(**TAKES)
    words = ["--sweep=recipe.seed=0,1"] if sweep else []
    assert run("submit", "digits_demo", "machine.run_dir=runs/t", *words)[0] == 0
    slurm(**LIVE)
    shutil.copytree(folder / copied, folder / "backup")
    first = records.runs_under(folder / copied)[0]
    copy, job = folder / "backup" / first.relative_to(folder / copied), "29_0" if sweep else "29"
    told = f"it is a copy of {first}, whose jobs end with: simclr-dist cancel {first}"
    assert run("cancel", copy)[:2] == (0, f"{copy}: no job of it waits or runs; {told}\n")
    assert f"job      {job}: that of {first}, of which this folder is a copy\n" in run("status", copy)[1]
    rows = [line.split()[:3] for line in run("status", copy, first)[1].splitlines()[1:]]
    assert rows == [[str(copy), "-", "COPIED"], [str(first), job, "RUNNING"]]
    assert run("resume", copy)[0] == 0
    assert run("cancel", copy)[1].startswith(f"{copy}: job 30 ended")
    assert run("cancel", job)[1].startswith(f"{first.relative_to(folder)}: job {job} ended")
    assert {path.name for path in folder.glob("ended_*")} == {"ended_30", f"ended_{job}"}


def test_a_job_that_takes_its_time_to_end_is_waited_for_aloud(slurm, folder, run, monkeypatch):
    slurm(**TAKES)
    assert run("submit", "digits_demo", "machine.run_dir=runs/t")[0] == 0
    slurm(**LIVE)
    monkeypatch.setattr("simclr_dist.progress_bar.errors_on_terminal", lambda: True)
    assert "runs/t: waiting for job 29 to end ..." in run("cancel", "runs/t")[2]


def test_a_moved_run_keeps_its_jobs_also_where_another_run_took_its_place(slurm, folder, run):
    slurm(**TAKES)
    assert run("submit", "digits_demo", "machine.run_dir=runs/t")[0] == 0
    (folder / "runs/t").rename(folder / "runs/moved")
    slurm(**LIVE)
    assert run("submit", "digits_demo", "machine.run_dir=runs/t")[0] == 0
    assert run("cancel", "runs/moved")[1].startswith("runs/moved: job 29 ended")
    assert [path.name for path in folder.glob("ended_*")] == ["ended_29"]


def test_a_resumed_run_stays_in_its_folder(folder, run):
    (folder / "run").mkdir()
    (folder / "run" / "config.yaml").write_text("recipe: {}\n")
    status, _, err = run("resume", "run", "machine.run_dir=/other", "--dry-run")
    assert (status, err) == (
        2, f"simclr-dist: machine.run_dir=/other: RUN says where the run is, {folder}/run; leave it out\n",
    )  # fmt: skip
