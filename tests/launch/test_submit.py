"""What is submitted, without SLURM: the batch script, and what is asked of SLURM's commands."""

import errno
import os
import shlex
import signal
import subprocess
import sys
from types import SimpleNamespace
from unittest.mock import Mock

import pytest

from simclr_dist.cli import pretrain
from simclr_dist.config import load_config
from simclr_dist.errors import UserError
from simclr_dist.launch.slurm import records, scheduler, watching
from simclr_dist.launch.slurm.batch_script import REQUEUE_STATUS, start_script
from simclr_dist.launch.slurm.checks import check
from simclr_dist.launch.slurm.resources import Resources
from tests.support.commands import TAKES, complaint, run_command
from tests.support.commands import batch_script as script
from tests.support.processes import pretrain_here, tiny_config

pytestmark = pytest.mark.usefixtures("folder")


def test_the_script_asks_for_what_was_asked_and_starts_one_process_a_gpu(capsys, folder):
    options = ["--nodes=4", "--gpus-per-node=8", "--cpus-per-task=12", "-p", "gpu", "-t", "1-00:00", "--mem=200G"]
    lines = script(capsys, *options, "--sbatch=mail-type=END", "--sbatch=exclusive", "--setup=module load cuda")
    asked = ["nodes=4", "ntasks-per-node=8", "gpus-per-node=8", "cpus-per-task=12", "partition=gpu", "time=1-00:00",
             "mem=200G", "mail-type=END", "exclusive", "requeue", "signal=USR2@120", "open-mode=append"]  # fmt: skip
    assert [option for option in asked if f"#SBATCH --{option}" not in lines] == []
    assert "module load cuda" in lines
    (start,) = [line for line in lines if line.startswith("srun")]
    assert "--kill-on-bad-exit=1 --cpus-per-task=12" in start
    assert f"{folder}/runs/my/jobs/NNN/start pretrain {folder}/runs/my/jobs/NNN/config.yaml" in start
    assert not (folder / "runs").exists()


def test_what_is_not_asked_for_is_left_to_the_cluster(capsys):
    asked = {line.split("=")[0].removeprefix("#SBATCH --") for line in script(capsys) if line.startswith("#SBATCH")}
    assert asked == {
        "gpus-per-node", "job-name", "nodes", "ntasks-per-node", "open-mode", "output", "requeue", "signal",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ("/images/simclr.sif", "apptainer exec --nv --bind {0} /images/simclr.sif {0}/runs/my/jobs/NNN/start"),
        (
            "registry#simclr:1",
            "'--container-image=registry#simclr:1' --container-workdir={0} --container-mounts={0}:{0} ",
        ),
    ],
)
def test_a_container_sees_the_run_and_the_data(capsys, folder, image, expected):
    (start,) = [line for line in script(capsys, f"--container={image}") if line.startswith("srun")]
    assert expected.format(folder) in start


def test_a_container_sees_the_initial_weights(capsys):
    words = ("--container=/images/simclr.sif", "recipe.initial.weights=/given/resnet50.pth")
    (start,) = [line for line in script(capsys, *words) if line.startswith("srun")]
    assert "--bind /given" in start


SRUN = """#!/bin/bash
[ -n "$REACHED" ] && { printf '%s\\0' "$@" > "$REACHED"; exit 0; }
"""


def reached(tmp_path, script: str) -> list[str]:
    """The words that srun gets when bash runs a batch script."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "srun").write_text(SRUN)
    (tmp_path / "bin" / "srun").chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "HOME": "/elsewhere"}
    environment |= {"REACHED": str(tmp_path / "words"), "SLURM_ARRAY_TASK_ID": "1"}
    done = subprocess.run(["bash", "-c", script], env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return (tmp_path / "words").read_text().split("\0")[:-1]


NAMES = ["r$(touch OWNED)", "`touch OWNED`", "a b", "it's", '"', "#1", "x; touch OWNED", "*", "!x", "50%j", "%%",
         "100%t", "~x", "-x", "&", "\N{HIRAGANA LETTER HI}", "a$HOME"]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("sweep", [[], ["--sweep=recipe.seed=0,1"]], ids=["one", "array"])
def test_the_batch_script_names_the_run_folder_as_it_is_whatever_it_is_called(capsys, folder, name, sweep):
    (folder / "x" / name).mkdir(parents=True)
    text = "\n".join(script(capsys, f"machine.run_dir={folder}/x/{name}", *sweep))
    jobs = f"{folder}/x/{name}/jobs/NNN"
    *before, start, command, config = reached(folder, text)
    assert (start, command, config) == (f"{jobs}/start", "pretrain", f"{jobs}/config{'_1' if sweep else ''}.yaml")
    assert not (folder / "OWNED").exists()
    number = "%A_%a" if sweep else "%j"
    assert before[before.index("--output") + 1] == f"{jobs.replace('%', '%%')}/{number}_%t_log.out"
    (output,) = [line for line in text.splitlines() if line.startswith("#SBATCH --output=")]
    assert shlex.split(output[8:]) == [f"--output={jobs.replace('%', '%%')}/{number}_0_log.out"]


@pytest.mark.parametrize("name", NAMES)
def test_the_start_script_names_code_and_folder_as_they_are(tmp_path, name):
    jobs = tmp_path / name / "jobs"
    told = 'echo "$PYTHONPATH|$SIMCLR_DIST_RENDEZVOUS"; :'
    script = start_script(jobs, jobs / "code", "python3").replace("exec python3", told)
    command, path = ["bash", "-c", script], {"PATH": os.defpath}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=path)
    assert (done.stdout, done.stderr) == (f"{jobs}/code|{jobs}\n", "")
    assert not (tmp_path / "OWNED").exists()


def test_a_job_that_goes_on_keeps_its_nodes_and_ends_as_the_run_and_not_as_the_lost_process(capsys, folder):
    lines = script(capsys, "machine.on_lost_process=go_on")
    assert "#SBATCH --no-kill" in lines
    (start,) = [line for line in lines if line.startswith("srun")]
    assert "--no-kill --kill-on-bad-exit=0" in start
    text = "\n".join(lines).replace(f"{folder}/runs/my/jobs/NNN", str(folder))
    ended = text.replace(start.replace(f"{folder}/runs/my/jobs/NNN", str(folder)), "(exit 137)")
    for step, status in (("12_0_0", 137), ("13_0_1", 0)):
        (folder / f".simclr_dist_{step}.status").write_text("0\n")
        environment = {"PATH": os.defpath, "SLURM_JOB_ID": "13", "SLURM_RESTART_COUNT": "1"}
        assert subprocess.run(["bash", "-c", ended], env=environment, check=False).returncode == status


@pytest.mark.parametrize(("signalled", "starts"), [(False, 4), (True, 1)])
def test_a_process_that_is_killed_while_the_others_go_on_is_started_three_times_more_unless_the_job_ends(
    tmp_path, signalled, starts
):
    dies = f"echo begins; {'kill -TERM $PPID; ' if signalled else ''}kill -KILL $$"
    script = start_script(tmp_path, tmp_path / "code", "python3", goes_on=True)
    (line,) = [line for line in script.splitlines() if line.strip().startswith("python3 -S")]
    script = script.replace(line, f"bash -c '{dies}'").replace("sleep 5", ":")
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 128 + signal.SIGKILL
    assert done.stdout.splitlines().count("begins") == starts


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["machine.run_dir=a\\b"], "a name with a backslash"),
        (["machine.run_dir=12:30"], "PYTHONPATH takes a colon"),
        (["machine.run_dir=a\ntouch x"], "a touch x/jobs/NNN' holds an end of line"),
        (["--partition=gpu\ntouch x"], "partition: 'gpu"),
        (["--sbatch=comment=a\ntouch x"], "comment: 'a"),
        (["--container=x.sif", "recipe.data.path=/a:b"], "apptainer takes a colon or a comma"),
        (["--container=x", "recipe.data.path=/a,b"], "pyxis takes a colon or a comma"),
        (["--sbatch=gpus=4"], "--sbatch gpus=4: it decides how many processes"),
        (["--sbatch=--ntasks-per-node=4"], "an option of its own for it, --tasks-per-node"),
        (["--sbatch=cpus_per_task=4"], "an option of its own for it, --cpus-per-task"),
        (["--sbatch=mail-type=END", "--sbatch=mail-type=FAIL"], "mail-type is given twice; give it once"),
        (["--sbatch=output=x"], "submit sets it"),
        (["--sbatch=gres=gpu:2", "--gpus-per-node=4"], "differ; give one of them"),
    ],
)
def test_what_cannot_stand_in_a_batch_script_or_asks_twice_is_refused_by_name(capsys, words, complaint):
    status, out, err = run_command(capsys, "submit", "my.yaml", "--dry-run", *words)
    assert (status, out) == (2, "")
    assert complaint in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("gres", "processes"),
    [("gpu:2", 2), ("gpu", 1), ("gpu:a100:4", 4), ("gpu:a100", 1), ("shm:1,gpu:v100:8(S:0-1)", 8), ("gres/gpu:2", 2)],
)
def test_gpus_asked_for_by_gres_are_asked_for_once_and_have_a_process_each(capsys, gres, processes):
    lines = script(capsys, f"--sbatch=gres={gres}")
    assert shlex.split(next(line for line in lines if "--gres=" in line)[8:]) == [f"--gres={gres}"]
    assert not [line for line in lines if "--gpus" in line]
    assert f"#SBATCH --ntasks-per-node={processes}" in lines


def test_a_gres_without_gpus_stands_beside_the_gpus(capsys):
    lines = script(capsys, "--sbatch=gres=shm:2", "--gpus-per-node=3")
    assert {"#SBATCH --gres=shm:2", "#SBATCH --gpus-per-node=3", "#SBATCH --ntasks-per-node=3"} <= set(lines)


AWAY = "slurm_requeue error: Unable to contact slurm controller (connect failure)"


def test_a_requeue_is_asked_for_again_while_the_controller_is_away(slurm, folder):
    slurm(scontrol=f'echo x >> asked; [ $(wc -l < asked) -ge 3 ] || {{ echo "{AWAY}" >&2; exit 1; }}')
    assert scheduler.requeue_if_possible("29") == ""
    assert (folder / "asked").read_text() == "x\n" * 3


def test_a_requeue_that_is_refused_or_never_answered_is_left_to_the_batch_script(slurm, folder, monkeypatch):
    slurm(scontrol='echo x >> asked; echo "slurm_requeue error: Requested operation is disabled" >&2; exit 1')
    assert "Requested operation is disabled" in scheduler.requeue_if_possible("29")
    assert (folder / "asked").read_text() == "x\n"
    monkeypatch.setattr(scheduler, "PATIENCE_SECONDS", 0.0)
    slurm(scontrol=f'echo "{AWAY}" >&2; exit 1')
    assert "Unable to contact slurm controller" in scheduler.requeue_if_possible("29")


def test_the_batch_script_asks_again_while_the_controller_is_away(slurm, folder, capsys):
    slurm(
        srun="exit 75", sleep="",
        scontrol=f"""echo "$1" >> asked
case $(wc -l < asked) in 1|3) echo '{AWAY}' >&2; exit 1;; esac
[ "$1" = show ] && echo JobState=RUNNING; true""",
    )  # fmt: skip
    text = "\n".join(script(capsys))
    done = subprocess.run(
        ["bash", "-c", text], cwd=folder, env={**os.environ, "SLURM_JOB_ID": "29"}, capture_output=True
    )
    assert done.returncode == 75
    assert (folder / "asked").read_text().split() == ["show", "show", "requeue", "show", "requeue"]


def test_a_preemption_is_seen_once_the_controller_answers_again(slurm, monkeypatch):
    slurm(
        scontrol=f'echo x >> asked; [ $(wc -l < asked) -ge 3 ] || {{ echo "{AWAY}" >&2; exit 1; }}\n'
        'echo "JobId=29 JobState=RUNNING PreemptTime=2026-01-01T00:00:00"'
    )
    assert scheduler.should_requeue("29", signal.SIGTERM)
    monkeypatch.setattr(scheduler, "PATIENCE_SECONDS", 0.0)
    slurm(scontrol=f'echo "{AWAY}" >&2; exit 1')
    assert not scheduler.should_requeue("29", signal.SIGTERM)  # it may be scancel's


def test_a_job_whose_name_or_folder_is_no_utf8_is_answered_like_any_other(slurm, folder):
    slurm(
        scontrol=r"printf 'JobId=29 JobName=caf\xe9 JobState=RUNNING PreemptTime=2026-01-01T00:00:00 WorkDir=/\xe9\n'"
    )
    assert not scheduler.has_ended("29")
    assert scheduler.should_requeue("29", signal.SIGTERM)


@pytest.mark.parametrize(
    ("number", "again"),
    [(signal.SIGINT, False), (signal.SIGHUP, False), (signal.SIGTERM, True), (signal.SIGUSR2, True)],
)
def test_in_a_container_a_ctrl_c_or_a_lost_terminal_never_claims_a_requeue_that_no_batch_script_asks_for(
    monkeypatch, capsys, number, again
):
    monkeypatch.setenv("PATH", "")  # no scontrol
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    config = load_config("digits_demo", ["machine.run_dir=run"])
    outcome = SimpleNamespace(is_first=True, steps_done=33, total_steps=100, signal=number)
    status, told = pretrain._report(outcome, config), capsys.readouterr().out
    assert (status, "goes back into the queue" in told) == ((REQUEUE_STATUS, True) if again else (128 + number, False))
    assert ("start the same command again to resume" in told) is not again


@pytest.mark.parametrize(("scancel", "told"), [("kill -9 $PPID", ""), ("echo no >&2; exit 1", "scancel refuses: no")])
def test_the_last_process_of_a_job_says_that_it_ends_it_before_it_is_ended_itself(slurm, scancel, told):
    slurm(scancel=scancel)
    line = "from simclr_dist.cli.pretrain import end_by_last_process as end; end('29')"
    done = subprocess.run([sys.executable, "-c", line], capture_output=True, text=True, check=False)
    assert "job 29 is ended by its last process: its first node was lost" in done.stdout
    assert told in done.stderr
    assert (done.returncode == 0) == bool(told)


def test_of_a_controller_that_is_away_nobody_says_that_a_job_has_ended(slurm, folder, capsys):
    jobs = records.new_folder(folder / "run")
    record = records.JobRecord(
        job="29", folder=str(jobs), config="c", code="c", version="1", submitted_at="now", resources={}, processes=1
    )
    records.write(jobs, record)
    slurm(scontrol=f'echo "{AWAY}" >&2; exit 1', scancel="exit 1")
    assert not scheduler.has_ended("29")
    assert "UNKNOWN" not in watching.table([folder / "run"]).splitlines()[0]
    assert "SLURM's controller does not answer" in run_command(capsys, "status", "run")[1]
    assert "does not answer" in run_command(capsys, "cancel", "run")[2]
    following = watching.follow(folder / "run", 0, every_seconds=0)
    record.log_of(0).write_text("a line")
    assert next(following) == "a line"
    slurm(scontrol='echo "JobId=29 JobState=COMPLETED"')
    assert "COMPLETED" in "".join(following)


SUBMIT = ("submit", "digits_demo", "machine.run_dir=runs/t")


@pytest.mark.parametrize("sweep", [[], ["--sweep=recipe.seed=0,1"]], ids=["one", "array"])
@pytest.mark.parametrize(
    ("scancel", "told"),
    [
        ("echo $* > ended", "job 29, which was submitted already, is ended; mend that, then start again"),
        (
            "echo no >&2; exit 1",
            "job 29 is submitted and unknown here (scancel refuses: no): end it with: scancel 29",
        ),
    ],
)
def test_a_job_whose_record_finds_a_full_disk_is_ended_or_named_and_keeps_its_folder(
    slurm, folder, run, monkeypatch, sweep, scancel, told
):
    slurm(**TAKES, scancel=scancel)
    full = Mock(side_effect=OSError(errno.ENOSPC, "No space left on device"))
    monkeypatch.setattr(records, "write_atomically", full)
    status, out, err = run(*SUBMIT, *sweep)
    assert (status, out) == (2, "")
    assert "jobs/001/job.json cannot be written: No space left on device; " in complaint(err)
    assert told in err
    assert (folder / "runs/t/jobs/001/start").is_file()
    assert not (folder / "ended").exists() or (folder / "ended").read_text() == "29\n"


@pytest.mark.usefixtures("heeds_ctrl_c")
def test_a_ctrl_c_while_sbatch_is_at_it_is_answered_when_the_job_has_its_record_and_the_user_its_number(
    slurm, folder, run
):
    slurm(**TAKES | {"sbatch": TAKES["sbatch"].replace("echo 29", "{ kill -INT $PPID $$; echo 29; }")})
    status, out, _ = run(*SUBMIT)
    assert (status, out.splitlines()[0].partition(":")[0]) == (128 + signal.SIGINT, "job 29")
    assert records.last_record(folder / "runs/t").job == "29"


def test_what_sbatch_refuses_leaves_no_folder_of_a_submission(slurm, folder, run):
    slurm(**TAKES | {"sbatch": TAKES["sbatch"].replace("echo 29", "{ echo no >&2; exit 1; }")})
    status, _, err = run(*SUBMIT)
    assert (status, complaint(err)) == (2, "simclr-dist: sbatch refuses: no")
    assert not list(folder.glob("runs/t/jobs/*"))


UNHEARD = "{ echo 'sbatch: error: Batch job submission failed: Socket timed out on send/recv operation' >&2; exit 1; }"


def test_a_job_that_slurm_took_though_its_answer_was_lost_gets_its_record(slurm, folder, run):
    script = folder / "runs/t/jobs/001/batch.sh"
    queue = f"echo '28 /elsewhere/batch.sh'; echo '29 {script}'"
    slurm(**TAKES | {"sbatch": TAKES["sbatch"].replace("echo 29", UNHEARD), "squeue": queue})
    status, out, _ = run(*SUBMIT)
    assert (status, out.splitlines()[0].partition(":")[0]) == (0, "job 29")
    assert records.last_record(folder / "runs/t").job == "29"
    assert script.exists()


def test_a_job_whose_answer_was_lost_and_that_the_queue_does_not_have_leaves_no_folder(slurm, folder, run):
    slurm(**TAKES | {"sbatch": TAKES["sbatch"].replace("echo 29", UNHEARD), "squeue": "echo '28 /elsewhere/batch.sh'"})
    status, _, err = run(*SUBMIT)
    assert (status, "Socket timed out on send/recv operation" in complaint(err)) == (2, True)
    assert not list(folder.glob("runs/t/jobs/*"))


def test_where_slurm_says_nothing_more_the_files_of_a_job_that_it_may_have_stay(slurm, folder, run, monkeypatch):
    monkeypatch.setattr(scheduler, "PATIENCE_SECONDS", 0.0)
    slurm(**TAKES | {"sbatch": TAKES["sbatch"].replace("echo 29", UNHEARD), "squeue": UNHEARD})
    status, _, err = run(*SUBMIT)
    assert (status, f"whose files stay in {folder}/runs/t/jobs/001: once it answers" in complaint(err)) == (2, True)
    assert (folder / "runs/t/jobs/001/start").exists()


@pytest.mark.parametrize("state", ["drained", "down*", "maint", "idle*"])
def test_a_job_that_waits_for_nodes_that_are_away_is_left_to_sbatch_to_judge(slurm, folder, state):
    slurm(sbatch='echo "allocation failure: Requested node configuration is not available" >&2; exit 1',
          sinfo=f'[[ "$*" == *%T* ]] && echo "{state} n[1-2]"; true')  # fmt: skip
    assert f"away now: n[1-2] {state}" in scheduler.check_only(folder / "batch.sh")
    slurm(sinfo='[[ "$*" == *%T* ]] && echo "idle n[1-2]"; true')
    with pytest.raises(UserError, match=r"SLURM would refuse this job: .*not available"):
        scheduler.check_only(folder / "batch.sh")


def test_a_sweep_is_an_array_of_all_combinations(capsys):
    lines = script(capsys, "--sweep=recipe.method.temperature=0.1,0.5", "--sweep=recipe.seed=0,1,2")
    assert "#SBATCH --array=0-5%6" in lines
    assert any('config_"$SLURM_ARRAY_TASK_ID".yaml' in line for line in lines)


def test_initial_weights_that_are_not_there_are_refused_before_the_job_waits(folder):
    config = tiny_config(folder, f"recipe.initial.weights={folder}/nothing.pth")
    with pytest.raises(UserError, match=r"recipe\.initial\.weights: .*/nothing\.pth: no such file"):
        check([config], Resources(tasks_per_node=1))


def test_a_folder_of_another_recipe_is_refused_before_the_job_waits(folder):
    mine = tiny_config(folder, "machine.stop_after_steps=1")
    other = tiny_config(folder, "recipe.seed=9", "recipe.method.temperature=0.07")
    check([other], Resources(tasks_per_node=1), data=False)  # nothing stands there yet
    pretrain_here(mine)
    check([mine], Resources(tasks_per_node=1), data=False)
    with pytest.raises(UserError) as refused:
        check([other], Resources(tasks_per_node=1), data=False)
    message = str(refused.value)
    assert f"machine.run_dir: {folder}/run/config.yaml is of another recipe: " in message
    assert "recipe.method.temperature is 0.5 there and 0.07 here" in message
    assert "recipe.seed is 0 there and 9 here" in message
