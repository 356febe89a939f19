"""A run whose processes are killed one after the other goes on, and is the run that was resized at the same steps."""

import signal
import weakref
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from simclr_dist.config import Config
from simclr_dist.data.loading.batch import Batch
from simclr_dist.distributed import nccl
from simclr_dist.distributed.membership import Meeting
from simclr_dist.distributed.processes import Processes
from simclr_dist.errors import StuckError, UserError
from simclr_dist.run.metrics_log import read_metrics
from simclr_dist.stop_signals import StopSignals
from simclr_dist.training.outcome import Outcome
from simclr_dist.training.pretraining import pretrain
from simclr_dist.training.standing import Ground, Origin, Standing
from simclr_dist.training.survivors import Survivors
from simclr_dist.training.trainer import Trainer
from tests.support.cut_network import CutNetwork, missing
from tests.support.processes import assert_bit_equal, final_state, losses, tiny_config
from tests.support.survivors import Death, resized_through_checkpoints, run_on_two_nodes, run_with_losses

STEPS = 7
MOCO_IN_CHUNKS = (
    "recipe.method.name=moco", "recipe.method.queue_keys=64", "recipe.batch_norm_group_images=8",
    "machine.images_per_chunk=8",
)  # fmt: skip


def config_of(folder: Path, *overrides: str) -> Config:
    return tiny_config(
        folder, "recipe.batch_norm_group_images=16", f"machine.stop_after_steps={STEPS}", "machine.save_every_steps=2",
        "machine.on_lost_process=go_on", "machine.device=cpu", *overrides,
    )  # fmt: skip


def assert_same_run(run: Path, config: Config, folder: Path) -> list[int]:
    """As one resized at the same steps, to the bit; the number of processes of each step."""
    other = resized_through_checkpoints(run, config, folder)
    assert losses(run) == losses(other)
    assert len(losses(run)) == config.machine.stop_after_steps
    one, same = final_state(run), final_state(other)
    for part in ("model", "optimizer", "scaler", "anomalies", "step"):
        assert_bit_equal(one[part], same[part], part)
    return [int(line["processes"]) for line in read_metrics(run / "metrics.jsonl")]


def test_killed_processes_leave_no_trace_in_weights_queue_losses_or_metrics(tmp_path):
    config = config_of(tmp_path, *MOCO_IN_CHUNKS)
    # Process 3, in reserve after the first loss, takes the place of process 2; after the third it is alone.
    deaths = {1: Death(2, "forward"), 2: Death(4, "update"), 0: Death(6, "the agreement at the start of a step")}
    ended = run_with_losses(config, 4, deaths)
    assert set(ended) == {3}
    assert ended[3].is_first
    assert assert_same_run(tmp_path / "run", config, tmp_path / "resized") == [4, 2, 2, 2, 2, 1, 1]


def test_a_process_that_comes_back_is_taken_in_and_the_run_grows_again(tmp_path):
    """Though it has not read the weights that the run began with, of which the others know the digest."""
    pretrain(tiny_config(tmp_path, "machine.stop_after_steps=1", f"machine.run_dir={tmp_path / 'given'}"), Processes())
    config = config_of(tmp_path, f"recipe.initial.weights={tmp_path / 'given'}")
    ended = run_with_losses(config, 4, {0: Death(2, "saving")}, back_before=6)
    assert set(ended) == {0, 1, 2, 3}
    assert [outcome for outcome in ended.values() if isinstance(outcome, str)] == []
    counts = assert_same_run(tmp_path / "run", config, tmp_path / "resized")
    # Process 0 dies in a thread that saves, before, in or after the next step.
    assert counts in ([4, 4, 2, 2, 2, 4, 4], [4, 4, 4, 2, 2, 4, 4])


@pytest.mark.parametrize(
    ("recipe", "deaths"),
    [
        (MOCO_IN_CHUNKS, {1: Death(2, "forward"), 0: Death(4, "update")}),  # recorded
        (("recipe.batch_norm_group_images=0",), {2: Death(3, "batch norm (backward pass)")}),
    ],
    ids=["recorded", "batch norm over processes"],
)
def test_on_pretended_gpus_whose_collectives_end_by_aborts_alone_the_others_go_on_with_the_same_losses(
    tmp_path, recipe, deaths
):
    config = config_of(tmp_path, *recipe, "machine.precision=float64")
    alone = replace(config, machine=replace(config.machine, run_dir=str(tmp_path / "alone")))
    config.machine.device = "cuda"
    ended = run_with_losses(config, 4, deaths)
    assert set(ended) == {0, 1, 2, 3} - set(deaths)
    assert [outcome for outcome in ended.values() if isinstance(outcome, str)] == []
    pretrain(alone, Processes())
    assert losses(tmp_path / "run") == pytest.approx(losses(tmp_path / "alone"), rel=1e-9)


def test_a_process_that_hangs_is_left_behind_and_writes_nothing_when_it_wakes(tmp_path):
    config = config_of(tmp_path, "machine.collective_timeout_seconds=4")
    ended = run_with_losses(config, 2, {0: Death(4, "rows of the loss")}, signal.SIGSTOP)
    assert "the run goes on without this process" in ended[0]
    assert assert_same_run(tmp_path / "run", config, tmp_path / "resized") == [2, 2, 2, 1, 1, 1, 1]


@pytest.fixture
def network() -> Iterator[CutNetwork]:
    if why := missing():
        pytest.skip(why)
    made = CutNetwork()
    yield made
    made.close()


def test_of_two_sides_that_do_not_reach_each_other_the_larger_goes_on_and_the_first_process_writes_nothing_more(
    tmp_path, network
):
    config = config_of(
        tmp_path, "machine.collective_timeout_seconds=4", "recipe.global_batch_images=48",
        "recipe.batch_norm_group_images=8",
    )  # fmt: skip
    ended = run_on_two_nodes(config, [0, 1, 1], network, 2)
    assert "the run goes on without this process" in str(ended[0])
    assert [isinstance(each, str) for each in ended[1:]] == [False, False], ended
    counts = assert_same_run(tmp_path / "run", config, tmp_path / "resized")
    assert sorted(set(counts)) == [2, 3]


@pytest.mark.parametrize("when", ["judge", "after_update"])
def test_nothing_is_kept_of_a_step_during_which_the_group_was_aborted(tmp_path, monkeypatch, when):
    """NCCL's collectives then end early, with any numbers and no error: before the numbers come, or after them."""
    config = config_of(tmp_path, "machine.save_every_steps=1")
    ground = Ground()
    trainer = Trainer(config, Processes(), torch.device("cpu"), ground=ground)
    judged: list[int] = []
    owner: Any = trainer.step.anomalies if when == "judge" else trainer.step
    original, step = getattr(owner, when), trainer.train_step

    def abort_in_the_third(batch: Batch) -> dict[str, float]:
        if trainer.steps_done == 2 and when == "judge":
            monkeypatch.setattr(nccl, "_aborting", [object()])
        return step(batch)

    def noting(*arguments: Any, **options: Any) -> Any:
        judged.append(trainer.steps_done)
        if trainer.steps_done == 2:
            monkeypatch.setattr(nccl, "_aborting", [object()])
        return original(*arguments, **options)

    monkeypatch.setattr(trainer, "train_step", abort_in_the_third)
    monkeypatch.setattr(owner, when, noting)
    with pytest.raises(RuntimeError, match="Connection closed by this process"):
        trainer.train(StopSignals())
    assert judged == ([0, 1] if when == "judge" else [0, 1, 2])  # what is not finite then is no anomaly of the run's
    assert ground.steps == [2]
    assert len(read_metrics(tmp_path / "run" / "metrics.jsonl")) == 2
    saved = sorted(file.stem for file in (tmp_path / "run" / "checkpoints").glob("step_*.pt"))
    assert saved == ["step_000000001", "step_000000002"]


def test_the_old_groups_step_is_freed_before_the_next_is_built_though_it_refers_to_itself():
    step = nn.Module()
    step.__dict__["embed"] = step
    freed = weakref.ref(step)
    ground = Ground(standing=Standing({}, 3, Origin({}, ""), [], 1))
    ground.standing.step = step  # type: ignore[union-attr]
    del step
    membership: Any = SimpleNamespace(
        identity=0, count=2, grows=lambda: False, meet=lambda steps: Meeting(1, [0], [], 3)
    )
    survivors = Survivors(membership, lambda *_: nullcontext(), lambda *_: Outcome(3, 3), lambda: None, ground)  # type: ignore[arg-type,return-value]
    del ground
    survivors._met("process 1 is lost", 0.0, Processes(0, 2))
    assert freed() is None


def test_the_run_of_another_job_is_not_stopped_by_a_signal_to_this_one(tmp_path):
    config = config_of(tmp_path)
    ground = Ground(is_guest=True)
    ends: list[object] = []

    def train(here: Processes, ground: Ground) -> Outcome:
        stop = StopSignals()
        stop.received = signal.SIGTERM
        return Trainer(config, here, torch.device("cpu"), ground=ground).train(stop)

    membership = SimpleNamespace(grows=lambda: False, comes_back=False, number=0, end=ends.append)
    survivors = Survivors(membership, lambda *_: nullcontext(), train, lambda: None, ground)  # type: ignore[arg-type]
    outcome = survivors.run(Processes())
    assert (outcome.signal, outcome.is_first) == (signal.SIGTERM, False)
    assert ends == []  # the others go on
    assert not list((tmp_path / "run" / "checkpoints").glob("*"))


def test_under_a_launcher_that_ends_the_others_it_is_refused_by_a_line(tmp_path, monkeypatch):
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="torchrun does not leave the others alone when one is lost"):
        pretrain(config_of(tmp_path), Processes(0, 2, 0, 2))
    assert not (tmp_path / "run").exists()


def test_what_one_process_alone_could_not_compute_is_refused_at_the_start(tmp_path):
    """Chunks of 16 are whole shares of four processes; of fewer they would cut the global batch-norm group."""
    config = tiny_config(
        tmp_path, "recipe.global_batch_images=64", "recipe.batch_norm_group_images=0", "machine.images_per_chunk=16",
        "machine.on_lost_process=go_on", "machine.device=cpu",
    )  # fmt: skip
    with pytest.raises(UserError, match="the last process could not go on alone"):
        pretrain(config, Processes(0, 4, 0, 4))


@pytest.mark.parametrize(
    ("error", "is_broken", "goes_on"), [(UserError, True, True), (UserError, False, False), (StuckError, True, False)]
)
def test_an_error_in_other_words_is_a_lost_process_where_the_group_is_known_to_be_over(error, is_broken, goes_on):
    outcome, errors = Outcome(3, 3), [error("NCCL error: unhandled")]
    membership: Any = SimpleNamespace(
        identity=0, number=0, count=2, grows=lambda: False, comes_back=False, is_broken=is_broken, end=lambda how: None,
        meet=lambda steps: Meeting(1, [0], [], None),
    )  # fmt: skip

    def train(here: Processes, ground: Ground) -> Outcome:
        if errors:
            raise errors.pop()
        return outcome

    survivors = Survivors(membership, lambda here, number: nullcontext(), train, lambda: pytest.fail("not in reserve"))
    if goes_on:
        assert survivors.run(Processes(0, 2)) is outcome
    else:
        with pytest.raises(UserError, match="unhandled"):
            survivors.run(Processes(0, 2))
