"""A run in Weights & Biases, offline, by the real library."""

import json
import math
import os

import pytest

from simclr_dist.config.tracking import Tracking
from simclr_dist.tracking.sending import remember, send_all, tracking_of
from tests.support.tracking import KEYS, evaluated, line, write_run
from tests.support.wandb_file import history, offline_runs, records, run_record

wandb = pytest.importorskip("wandb", reason="wandb is not installed: pip install 'simclr_dist[wandb]'")


@pytest.fixture(autouse=True)
def _no_account(monkeypatch, tmp_path):
    monkeypatch.setenv("NETRC", str(tmp_path / "no_netrc"))
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)


def sent(run_dir, told=None) -> None:
    tell = (lambda line: None) if told is None else told.append
    assert send_all(run_dir, "wandb", tracking_of(run_dir, {}), tell) is None
    wandb.teardown()  # as at the end of a process: waits until W&B's own has written its file


def test_a_run_that_was_rewound_and_resumed_is_one_run_whose_steps_have_no_gap_and_no_repeat(tmp_path):
    run_dir = write_run(tmp_path, steps=7, **KEYS)
    told = []
    sent(run_dir, told)
    first = run_record(*offline_runs(run_dir))
    # The steps after a checkpoint of step 4 are computed again, with other last digits, as on other machines.
    write_run(tmp_path, steps=12, shift=1e-7, after=4, **KEYS)
    evaluated(run_dir)
    sent(run_dir)
    (path,) = offline_runs(run_dir)
    rows, run = history(path), run_record(path)
    assert [row["_step"] for row in rows] == list(range(1, 13))
    assert [row["loss"] for row in rows if row["_step"] != 3] == [
        line(step, 1e-7 if step > 4 else 0.0)["loss"] for step in range(1, 13) if step != 3
    ]
    assert math.isnan(rows[2]["loss"])
    assert (run.run_id, run.project, run.display_name) == (first.run_id, "p", "run")
    known = {item.key: json.loads(item.value_json) for each in records(path) for item in each.config.update}
    assert (known["recipe"], known["machine"]) == ({"epochs": 3, "seed": 0}, {"precision": "float32"})
    results = {item.key: item.value_json for each in records(path) for item in each.summary.update}
    assert results["evaluation/knn/kNN_pretrained/100_percent"] == "0.75"
    assert (path.parent / "files" / "config.yaml").exists()
    assert any("no account" in line for line in told)
    assert any("wandb sync" in line for line in told)


def test_what_track_was_told_holds_the_next_time(tmp_path):
    run_dir = write_run(tmp_path, steps=1)
    assert tracking_of(run_dir, {}) == Tracking()
    remember(run_dir, {"wandb": {"project": "later"}})
    assert tracking_of(run_dir, {}).wandb.project == "later"
