"""What is submitted, without SLURM: the batch script, profiles and what is wrong in them."""

import pytest

from simclr_dist.errors import UserError
from simclr_dist.launch.slurm.resources import Resources, resources
from simclr_dist.launch.slurm.submission import check
from tests.support.commands import run_command
from tests.support.processes import pretrain_here, tiny_config


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "settings"))
    (tmp_path / "settings" / "simclr_dist").mkdir(parents=True)
    (tmp_path / "my.yaml").write_text("recipe: {data: {source: folder, path: photos}}\n")
    return tmp_path


def script(capsys, *words: str) -> list[str]:
    status, out, _ = run_command(capsys, "submit", "my.yaml", "--dry-run", *words)
    assert status == 0
    return out.splitlines()


def test_the_script_asks_for_what_was_asked_and_starts_one_process_a_gpu(capsys, folder):
    options = ["--nodes=4", "--gpus-per-node=8", "--cpus-per-task=12", "-p", "gpu", "-t", "1-00:00", "--mem=200G"]
    lines = script(capsys, *options, "--sbatch=mail-type=END", "--sbatch=exclusive", "--setup=module load cuda")
    asked = ["nodes=4", "ntasks-per-node=8", "gpus-per-node=8", "cpus-per-task=12", "partition=gpu", "time=1-00:00",
             "mem=200G", "mail-type=END", "exclusive", "requeue", "signal=USR2@120", "open-mode=append"]  # fmt: skip
    assert [option for option in asked if f"#SBATCH --{option}" not in lines] == []
    assert "module load cuda" in lines
    (start,) = [line for line in lines if line.startswith("srun")]
    assert "--kill-on-bad-exit=1 --cpus-per-task=12" in start
    assert f'{folder}/runs/my/jobs/NNN/start pretrain "{folder}/runs/my/jobs/NNN/config.yaml"' in start
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


def test_a_sweep_is_an_array_of_all_combinations(capsys):
    lines = script(capsys, "--sweep=recipe.method.temperature=0.1,0.5", "--sweep=recipe.seed=0,1,2")
    assert "#SBATCH --array=0-5%6" in lines
    assert any("config_$SLURM_ARRAY_TASK_ID.yaml" in line for line in lines)


def test_a_profile_keeps_a_clusters_settings_and_the_command_line_wins(folder, capsys):
    profile = folder / "settings" / "simclr_dist" / "default.yaml"
    profile.write_text("partition: gpu\ngpus-per-node: 8\nsbatch: {mail-type: END}\nsetup: [module load cuda]\n")
    lines = script(capsys, "--gpus-per-node=4")
    assert "#SBATCH --partition=gpu" in lines
    assert "#SBATCH --gpus-per-node=4" in lines
    assert "#SBATCH --mail-type=END" in lines
    assert resources(str(profile), {})[0].processes == 8


def test_the_texts_of_a_profile_are_what_stands_there_and_no_numbers(folder):
    (folder / "c.yaml").write_text(
        "account: 0123\ntime: 1:00:00\nqos: on\nexclude: 1_0\nnodes: 2\nsbatch: {comment: 007, exclusive: }\n"
    )
    read, _ = resources(str(folder / "c.yaml"), {})
    assert (read.account, read.time, read.qos, read.exclude, read.nodes) == ("0123", "1:00:00", "on", "1_0", 2)
    assert read.sbatch == ("comment=007", "exclusive")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("partitoin: gpu", "unknown key 'partitoin' .did you mean 'partition'"),
        ("nodes: many", "nodes is 'many'; give a whole number"),
        ("partition:", "partition has no value"),
        ("- partition", "KEY: VALUE"),
        ("partition: [a", "cannot be read as YAML"),
        ("partition: {a: b}", "give one word"),
    ],
)
def test_a_mistake_in_a_profile_is_told_with_its_file_and_key(folder, text, complaint):
    (folder / "c.yaml").write_text(text)
    with pytest.raises(UserError, match=f"c.yaml.*{complaint}"):
        resources(str(folder / "c.yaml"), {})


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
