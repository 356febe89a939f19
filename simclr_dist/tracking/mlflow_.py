"""A run in MLflow, whose stores keep every value that they are given: a step that is sent twice is there twice.

So the run folder notes what is about to be sent, and that it was. After a kill or an error in between the store itself
is asked which values it has.
"""

import os
import time
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

from simclr_dist.config.tracking import Mlflow
from simclr_dist.reporting.facts import leaves
from simclr_dist.tracking.facts import evaluation_numbers, result_files
from simclr_dist.tracking.sink import About, Record, Tell, finite
from simclr_dist.tracking.state import State

# What MLflow's servers take in one request.
_MOST_METRICS, _MOST_PARAMETERS, _MOST_CHARACTERS = 1000, 100, 500
_KEY = "simclr_dist.run"


class MlflowSink:
    """One run of MLflow, of the same id in every process that resumes it."""

    def __init__(self, about: About, keys: Mlflow, tell: Tell) -> None:
        """Begin or resume it.

        Raises:
            Exception: whatever mlflow raises.
        """
        self.about = about
        asked = keys.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI", "")
        self._uri = asked or str(about.run_dir.resolve() / "mlruns")
        if "://" not in self._uri or self._uri.startswith("file:"):
            # mlflow 3 writes folders no more unless it is told that they are meant; here they are.
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        from mlflow import MlflowClient

        self._client = MlflowClient(tracking_uri=self._uri)
        self._state, self._destination = State(about.run_dir, "mlflow"), f"{asked} {keys.experiment}"
        new: dict[str, Any] = {"key": uuid.uuid4().hex, "sent": 0, "sending": 0}
        self._entry = new | self._state.read(self._destination)
        self._note()  # before MLflow hears of it: a kill must not leave a second run
        run = self._run(keys)
        self.last_step: int = self._entry["sent"]
        self._there = self._values_after(self.last_step, run) if self._entry["sending"] > self.last_step else set()
        self._describe(run)
        tell(f"run {self._id} of experiment '{keys.experiment}' in {_without_password(self._uri)}")

    def send(self, records: Sequence[Record]) -> None:
        for batch in _batches(records):
            self._note(sending=int(batch[-1]["step"]))
            self._log(
                [(name, int(line["step"]), finite(line[name])) for line in batch for name in line if name != "step"]
            )
            self._note(sent=int(batch[-1]["step"]))

    def caught_up(self) -> None:
        self._there = set()

    def send_results(self) -> None:
        numbers = list(evaluation_numbers(self.about.run_dir))
        names = {name for name, _, _ in numbers} & set(self._client.get_run(self._id).data.metrics)
        known = {(name, step, value) for name in names for step, value in self._history(name)}
        self._log([number for number in dict.fromkeys(numbers) if number not in known])
        for path in result_files(self.about.run_dir):
            self._client.log_artifact(self._id, str(path))

    def close(self, *, finished: bool) -> None:
        self._client.set_terminated(self._id, "FINISHED" if finished else "KILLED")

    def _run(self, keys: Mlflow) -> Any:
        """The run that there is already, or a new one."""
        from mlflow.exceptions import MlflowException

        client = self._client
        if found := client.get_experiment_by_name(keys.experiment):
            experiment = found.experiment_id
        else:
            try:
                experiment = client.create_experiment(keys.experiment)
            except MlflowException:  # another run has made it meanwhile
                if (found := client.get_experiment_by_name(keys.experiment)) is None:
                    raise
                experiment = found.experiment_id
        key = self._entry["key"]
        runs = client.search_runs([experiment], f"tags.`{_KEY}` = '{key}'", max_results=1)
        tags = {_KEY: key, "mlflow.source.name": "simclr-dist", "mlflow.source.type": "JOB"}
        run = runs[0] if runs else client.create_run(experiment, run_name=keys.run_name or self.about.name, tags=tags)
        self._id = run.info.run_id
        if not runs:  # deleted there, or never made: all of it is sent
            self._note(sent=0, sending=0)
        client.update_run(self._id, status="RUNNING")
        return run

    def _describe(self, run: Any) -> None:
        """The config as parameters, which MLflow never changes: what a later start has otherwise stands in a tag."""
        from mlflow.entities import Param

        config = {key: str(value)[:_MOST_CHARACTERS] for key, value in leaves(self.about.config)}
        there = run.data.params
        new = [Param(key, value) for key, value in config.items() if key not in there and not key.startswith("health.")]
        for first in range(0, len(new), _MOST_PARAMETERS):
            self._client.log_batch(self._id, params=new[first : first + _MOST_PARAMETERS])
        tags = {key: value for key, value in config.items() if there.get(key, value) != value}
        if self.about.code:
            tags["simclr_dist.code"] = self.about.code
            tags |= {"mlflow.source.git.commit": commit} if (commit := _commit(self.about.code)) else {}
        for key, value in tags.items():
            self._client.set_tag(self._id, key, value)

    def _log(self, numbers: Sequence[tuple[str, int, float]]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        new = [Metric(name, value, now, step) for name, step, value in numbers if (name, step) not in self._there]
        for first in range(0, len(new), _MOST_METRICS):
            self._client.log_batch(self._id, metrics=new[first : first + _MOST_METRICS])

    def _values_after(self, step: int, run: Any) -> set[tuple[str, int]]:
        return {(name, at) for name in run.data.metrics for at, _ in self._history(name) if at > step}

    def _history(self, name: str) -> Iterator[tuple[int, float]]:
        for metric in self._client.get_metric_history(self._id, name):
            yield metric.step, metric.value

    def _note(self, **changes: int) -> None:
        self._entry |= changes
        self._state.write(self._destination, self._entry)


def _batches(records: Sequence[Record]) -> Iterator[list[Record]]:
    """Lines together that fit one request."""
    batch: list[Record] = []
    count = 0
    for record in records:
        if batch and count + len(record) > _MOST_METRICS:
            yield batch
            batch, count = [], 0
        batch.append(record)
        count += len(record)
    if batch:
        yield batch


def _commit(code: str) -> str:
    """``300316a0c1d2`` of ``0.1.0 (300316a0c1d2+)``."""
    return code.partition("(")[2].strip(")+")


def _without_password(uri: str) -> str:
    scheme, marker, rest = uri.partition("://")
    return f"{scheme}{marker}{rest.rpartition('@')[2]}"
