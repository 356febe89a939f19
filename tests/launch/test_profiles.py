"""Profiles of a cluster's settings, and what is wrong in them."""

import pwd

import pytest

from simclr_dist.errors import UserError
from simclr_dist.launch.slurm.profiles import resources
from tests.support.commands import batch_script

pytestmark = pytest.mark.usefixtures("folder")


def test_a_profile_keeps_a_clusters_settings_and_the_command_line_wins(folder, capsys):
    profile = folder / "settings" / "simclr_dist" / "default.yaml"
    profile.write_text("partition: gpu\ngpus-per-node: 8\nsbatch: {mail-type: END}\nsetup: [module load cuda]\n")
    lines = batch_script(capsys, "--gpus-per-node=4")
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
        ("nodes: 0", "nodes is '0'; give a whole number, 1 or more"),
        ("notice-seconds: 0", "notice-seconds is '0'; give a whole number, 1 or more"),
        ("gpus-per-node: -1", "gpus-per-node is '-1'; give a whole number, 0 or more"),
        ("nodes:", "nodes has no value"),
        ("setup:", "setup has no value; give it one, or remove the line"),
        ("sbatch:", "sbatch has no value; give it one, or remove the line"),
        ("setup: [null]", "setup is '.None.'; give a line of the batch script, or a list of lines"),
        ("setup: [module load: cuda]", "setup is '.*'; give a line of the batch script, or a list of lines"),
        ("setup: {module load: cuda}", "setup is '.*'; give a line of the batch script, or a list of lines"),
        ("sbatch: [mail-type: END]", "sbatch is '.*'; give KEY: VALUE, or a list of KEY=VALUE"),
        ("sbatch: {mail-type: [END, FAIL]}", "sbatch: mail-type is '.*'; give one word or number"),
        ("nodes: 1\nnodes: 2", "found duplicate key nodes at line 2, column 1"),
        ("cpus-per-task: 1\ncpus_per_task: 2", "cpus_per_task is given twice, with - and with _"),
    ],
)
def test_a_mistake_in_a_profile_is_told_with_its_file_and_key(folder, text, complaint):
    (folder / "c.yaml").write_text(text)
    with pytest.raises(UserError, match=f"c.yaml.*{complaint}"):
        resources(str(folder / "c.yaml"), {})


def test_a_user_without_a_home_has_no_profiles_and_submits(capsys, monkeypatch):
    def unknown(_: int) -> None:
        raise KeyError("uid not found")

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    for name in ("HOME", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name)
    assert "#SBATCH --nodes=1" in batch_script(capsys)
    with pytest.raises(UserError, match="--profile: 'x' is no file, and this user has no home folder"):
        resources("x", {})
