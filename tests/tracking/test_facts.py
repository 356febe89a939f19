"""What leaves the machine, by a tracker or in a report: no password, and each number under a name of its own."""

import yaml

from simclr_dist.reporting.facts import read_facts
from simclr_dist.reporting.tables import config_table, differences
from simclr_dist.tracking.facts import read_about, result_files
from tests.support.tracking import write_run

PASSWORD = "secret"
WITH_PASSWORD = {"mlflow": {"experiment": "e", "tracking_uri": f"https://me:{PASSWORD}@host"}}


def test_a_password_of_a_tracker_is_in_no_file_that_is_sent_and_the_rest_of_the_config_is(tmp_path):
    run_dir = write_run(tmp_path, steps=2, **WITH_PASSWORD)
    assert PASSWORD in (run_dir / "config.yaml").read_text()
    for _ in range(2):
        files = {path.name: path.read_text() for path in result_files(run_dir)}
        assert PASSWORD not in str(files) + str(read_about(run_dir))
        assert yaml.safe_load(files["config.yaml"]) == {
            "recipe": {"epochs": 3, "seed": 0}, "machine": {"precision": "float32"},
        }  # fmt: skip


def test_a_password_of_a_tracker_is_in_no_table_of_a_report(tmp_path):
    for name, keys in (("one", WITH_PASSWORD), ("other", {})):
        (tmp_path / name).mkdir()
        write_run(tmp_path / name, steps=2, **keys)
    runs = [read_facts(tmp_path / name / "run", name) for name in ("one", "other")]
    for table in (config_table(runs[:1], "machine"), config_table(runs, "machine"), differences(runs)):
        assert PASSWORD not in table
        assert "tracking" not in table
