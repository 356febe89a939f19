"""What leaves the machine, by a tracker or in a report: no password, and each number under a name of its own."""

import json

import yaml

from simclr_dist.reporting.facts import read_facts
from simclr_dist.reporting.tables import config_table, differences
from simclr_dist.tracking.facts import evaluation_numbers, read_about, result_files
from tests.support.commands import NO_UTF8
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


def write_result(run_dir, file, mean, step=12, source="digits", k=20):
    row = {"name": "kNN, pretrained", "labels": "all", "mean": mean}
    content = {"method": "knn", "steps_done": step, "data": {"source": source}, "protocol": {"k": k}, "rows": [row]}
    (run_dir / f"evaluation_step_{step:09d}_knn_{file}.json").write_text(json.dumps(content))


def test_results_of_several_images_or_protocols_have_names_of_their_own_and_steps_of_one_share_a_name(tmp_path):
    run_dir, name = write_run(tmp_path, steps=12), "evaluation/knn/kNN_pretrained/all"
    write_result(run_dir, "a", 0.5, step=6)
    write_result(run_dir, "b", 0.6)
    assert list(evaluation_numbers(run_dir)) == [(name, 6, 0.5), (name, 12, 0.6)]
    write_result(run_dir, "c", 0.9, source="cifar10")
    write_result(run_dir, "d", 0.7, k=5)
    found = {(step, value): each for each, step, value in evaluation_numbers(run_dir)}
    assert len(found) == 4
    assert found[6, 0.5] == found[12, 0.6]
    assert len(set(found.values())) == 3
    assert found[12, 0.9].startswith(f"{name}/cifar10_")
    assert found[12, 0.7].startswith(f"{name}/digits_")


def test_a_path_of_the_config_that_is_no_utf8_is_spelt_for_trackers(tmp_path):
    run_dir = write_run(tmp_path, steps=2)
    config = {"recipe": {"data": {"path": f"/data/{NO_UTF8}"}, "of": [NO_UTF8]}, "machine": {}}
    (run_dir / "config.yaml").write_text(yaml.safe_dump(config))
    assert read_about(run_dir).config["recipe"] == {"data": {"path": r"/data/caf\udce9"}, "of": [r"caf\udce9"]}
    for path in result_files(run_dir):
        path.read_text(encoding="utf-8")
