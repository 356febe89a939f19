"""Records of what was submitted: their order, one that cannot be read, and what a run's next job may not change."""

import pytest

from simclr_dist.launch.slurm import records

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


def test_a_resumed_run_stays_in_its_folder(folder, run):
    (folder / "run").mkdir()
    (folder / "run" / "config.yaml").write_text("recipe: {}\n")
    status, _, err = run("resume", "run", "machine.run_dir=/other", "--dry-run")
    assert (status, err) == (
        2, f"simclr-dist: machine.run_dir=/other: RUN says where the run is, {folder}/run; leave it out\n",
    )  # fmt: skip
