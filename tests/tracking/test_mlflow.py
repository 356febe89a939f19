"""A run in MLflow, in a folder, by the real library."""

import math

import pytest

from simclr_dist.tracking.sending import send_all, tracking_of
from tests.support.tracking import KEYS, evaluated, line, write_run

mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed: pip install 'simclr_dist[mlflow]'")


@pytest.fixture(autouse=True)
def _no_server(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")


def sent(run_dir):
    return send_all(run_dir, "mlflow", tracking_of(run_dir, {}), lambda line: None)


def client_and_run(run_dir):
    client = mlflow.MlflowClient(tracking_uri=str(run_dir / "mlruns"))
    (run,) = client.search_runs([client.get_experiment_by_name("e").experiment_id])
    return client, run


def steps_of(client, run, name):
    return [metric.step for metric in client.get_metric_history(run.info.run_id, name)]


def test_a_run_that_was_rewound_and_resumed_is_one_run_whose_steps_have_no_gap_and_no_repeat(tmp_path):
    run_dir = write_run(tmp_path, steps=7, **KEYS)
    assert sent(run_dir) is None
    first = client_and_run(run_dir)[1]
    assert first.info.status == "KILLED"
    write_run(tmp_path, steps=12, shift=1e-7, after=4, **KEYS)
    evaluated(run_dir)
    assert [sent(run_dir), sent(run_dir)] == [None, None]
    client, run = client_and_run(run_dir)
    assert (run.info.run_id, run.info.run_name, run.info.status) == (first.info.run_id, "run", "FINISHED")
    assert all(steps_of(client, run, name) == list(range(1, 13)) for name in ("loss", "gradient_norm", "epoch"))
    values = {metric.step: metric.value for metric in client.get_metric_history(run.info.run_id, "loss")}
    assert math.isnan(values.pop(3))
    # Steps 5 to 7 stay as they were sent first: MLflow takes nothing back.
    assert values == {step: line(step, 1e-7 if step > 7 else 0.0)["loss"] for step in range(1, 13) if step != 3}
    assert run.data.params["recipe.epochs"] == "3"
    assert not [name for name in run.data.params if "tracking" in name]
    assert run.data.tags["mlflow.source.git.commit"] == "300316a0c1d2"
    assert steps_of(client, run, "evaluation/knn/kNN_pretrained/100_percent") == [12]
    assert "config.yaml" in [file.path for file in client.list_artifacts(run.info.run_id)]


def test_killed_within_a_request_no_value_is_sent_twice_and_none_is_missing(tmp_path, monkeypatch):
    run_dir = write_run(tmp_path, steps=8, **KEYS)
    whole = mlflow.MlflowClient.log_batch

    def half(client, run_id, metrics=(), params=(), **rest):
        whole(client, run_id, metrics=metrics[: len(metrics) // 2], params=params, **rest)
        if metrics:
            raise ConnectionError("gone")

    with monkeypatch.context() as patch:
        patch.setattr(mlflow.MlflowClient, "log_batch", half)
        assert isinstance(sent(run_dir), ConnectionError)
    assert sent(run_dir) is None
    client, run = client_and_run(run_dir)
    assert all(steps_of(client, run, name) == list(range(1, 9)) for name in ("loss", "gradient_norm", "epoch"))
