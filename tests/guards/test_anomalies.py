"""Numbers that go wrong: found, logged, answered as the recipe says, on any number of processes, through restarts."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from simclr_dist.config import Config
from simclr_dist.config.anomalies import Anomalies
from simclr_dist.config.metric import Metric
from simclr_dist.distributed.collectives import process_rank
from simclr_dist.errors import AgreedError, UserError
from simclr_dist.guards.anomalies import AnomalyWatch, read_anomalies
from simclr_dist.reporting.anomalies import anomaly_table
from simclr_dist.reporting.curves import training_curves
from simclr_dist.reporting.facts import read_facts
from simclr_dist.run import checkpoint
from simclr_dist.run.metrics_log import read_metrics
from simclr_dist.training import step as training_step
from simclr_dist.training.step import TrainingStep
from tests.support.poison import NOW, poisoned
from tests.support.processes import assert_bit_equal, final_state, losses, pretrain_here, run_distributed, tiny_config

# ------------------------------------------------------------------------------------------------- what is an anomaly


def watch(folder: Path, **policy: Any) -> AnomalyWatch:
    collapse = ("embedding_std", Metric(title="spread"))
    return AnomalyWatch(Anomalies(**{"window_steps": 20, **policy}), folder, 30, collapse, active=False)


def judged(watch: AnomalyWatch, first: int, numbers: list[float], key: str = "loss") -> list[int]:
    """The steps from ``first`` on at which something was logged or done; ``numbers`` are those of ``key``."""
    usual = {"loss": 2.0, "gradient_norm": 1.0, "embedding_std": 0.9}
    found = []
    for step, number in enumerate(numbers, first):
        before = len(watch.found)
        anomaly = watch.judge(step, usual | {key: number})
        if anomaly:
            watch.answered(anomaly)
        if len(watch.found) > before or anomaly:
            found.append(step)
    return found


def noisy(steps: int, seed: int = 0) -> list[float]:
    """A loss that falls from 5.6 to 4, as that of a healthy run, with noise on it."""
    noise = torch.randn(steps, generator=torch.Generator().manual_seed(seed)).mul(0.05).tolist()
    return [4 + 1.6 * math.exp(-step / 40) + each for step, each in enumerate(noise)]


def test_a_loss_that_falls_with_noise_on_it_never_jumps(tmp_path):
    for seed in range(5):
        assert judged(watch(tmp_path), 1, noisy(600, seed)) == []


def test_a_jump_is_logged_once_where_it_begins_and_again_after_it_has_ended(tmp_path):
    numbers = noisy(200)
    numbers[99:103] = [9.0] * 4
    numbers[150] = 7.0
    assert judged(watch(tmp_path), 1, numbers) == [100, 151]


def test_nothing_jumps_before_the_window_is_full(tmp_path):
    assert judged(watch(tmp_path), 1, [*noisy(19), 9.0]) == []
    assert judged(watch(tmp_path), 1, [*noisy(20), 9.0]) == [21]


def test_a_loss_that_stands_still_does_not_jump_in_its_last_digits(tmp_path):
    assert judged(watch(tmp_path), 1, [2.0] * 30 + [2.05]) == []
    assert judged(watch(tmp_path), 1, [2.0] * 30 + [2.13]) == [31]


def test_a_loss_that_was_0_most_of_the_time_does_not_jump_when_it_is_not(tmp_path):
    assert judged(watch(tmp_path), 1, [0.0] * 30 + [0.001, 0.0, 0.02]) == []


def test_losses_of_skipped_steps_are_not_what_later_ones_are_compared_with(tmp_path):
    numbers = [*noisy(40), *[9.0] * 15]
    assert judged(watch(tmp_path, on_jump="skip", max_skipped_steps=99), 1, numbers) == list(range(41, 56))


def test_a_collapse_is_logged_once_when_it_has_lasted_a_window_after_the_warm_up(tmp_path):
    spread = [0.01] * 60 + [0.9] + [0.05] * 25
    assert judged(watch(tmp_path), 1, spread, "embedding_std") == [50, 81]


@pytest.mark.parametrize(("policy", "jumps"), [("warn", 1), ("warn", 3), ("skip", 3)])
def test_a_collapse_whose_deciding_step_jumps_is_logged_once_at_the_next_that_does_not(tmp_path, policy, jumps):
    watching = watch(tmp_path, on_jump=policy)
    usual, found = {"gradient_norm": 1.0, "embedding_std": 0.01}, []
    for step in range(1, 120):
        loss = 9.0 if 50 <= step < 50 + jumps or step == 90 else 2.0
        if anomaly := watching.judge(step, usual | {"loss": loss}):
            watching.answered(anomaly)
        copy = watch(tmp_path, on_jump=policy)
        copy.load_state_dict(watching.state_dict())  # a restart after every step
        watching, found = copy, [(entry["step"], entry["kind"]) for entry in copy.found]
    assert [each for each in found if each[1] == "collapse"] == [(50 + jumps, "collapse")]
    assert {(50, "jump"), (90, "jump")} < set(found)


@pytest.mark.parametrize(("key", "policy"), [("embedding_std", "on_collapse"), ("loss", "on_jump")])
def test_a_run_that_stops_is_as_it_was_before_the_step_and_stops_there_again(tmp_path, key, policy):
    stopping = watch(tmp_path, **{policy: "stop"})
    numbers = {"embedding_std": [0.01] * 49, "loss": noisy(49)}[key]
    assert judged(stopping, 1, numbers, key) == []
    before = stopping.state_dict()
    usual = {"loss": 2.0, "gradient_norm": 1.0, "embedding_std": 0.9} | {key: {"embedding_std": 0.01, "loss": 9.0}[key]}
    anomaly = stopping.judge(50, usual)
    assert anomaly is not None
    assert anomaly.action == "stop"
    assert stopping.state_dict() == before
    again = watch(tmp_path, **{policy: "stop"})
    again.load_state_dict(before)
    assert again.judge(50, usual) == anomaly


def test_a_gradient_that_overflows_under_gradient_scaling_is_no_anomaly(tmp_path):
    numbers = {"loss": 2.0, "gradient_norm": math.inf, "embedding_std": 0.9}
    assert watch(tmp_path).judge(1, numbers, overflow_is_normal=True) is None
    anomaly = watch(tmp_path).judge(1, numbers)
    assert anomaly is not None
    assert (anomaly.kind, anomaly.action, anomaly.message) == ("not finite", "stop", "gradient norm is inf")


# ---------------------------------------------------------------------------------------------- what a run does with it


def overflow(features: torch.Tensor) -> torch.Tensor:
    return features * math.inf


def run(config: Config, bad_steps: tuple[int, ...]) -> str:
    """How the run ended."""
    try:
        poisoned(bad_steps, overflow, lambda: pretrain_here(config))
    except UserError as error:
        return str(error) if isinstance(error, AgreedError) else f"for itself: {error}"
    return "done"


def kept(folder: Path) -> list[dict[str, Any]]:
    return [checkpoint.load(path) for path in sorted((folder / "checkpoints").glob("step_*.pt"))]


def trained(state: dict[str, Any]) -> dict[str, Any]:
    return {name: state[name] for name in ("model", "optimizer", "scaler")}


def test_a_step_that_is_not_finite_stops_the_run_with_the_state_before_it_and_skip_goes_on_from_there(tmp_path):
    config = tiny_config(tmp_path, "machine.stop_after_steps=6")
    complaint = run(config, (4,))
    assert complaint.startswith("loss is nan at step 4 (first not finite: the output of encoder (Encoder): ")
    assert ": the run stops; recipe.anomalies.on_not_finite=skip would continue from here; " in complaint
    assert "the last good checkpoint is " in complaint
    assert read_anomalies(tmp_path / "run")[0]["action"] == "stop"
    stopped = final_state(tmp_path / "run")
    assert stopped["step"] == len(losses(tmp_path / "run")) == 3
    # As a run that ends there by itself: not even running statistics have seen the step.
    run(tiny_config(tmp_path, "machine.stop_after_steps=3", f"machine.run_dir={tmp_path / 'plain'}"), ())
    assert_bit_equal(stopped, final_state(tmp_path / "plain"))
    assert (
        run(tiny_config(tmp_path, "machine.stop_after_steps=6", "recipe.anomalies.on_not_finite=skip"), (4,)) == "done"
    )
    assert final_state(tmp_path / "run")["step"] == 6


def _skipping(folder: Path) -> None:
    def config(name: str, *more: str) -> Config:
        return tiny_config(
            folder, f"machine.run_dir={folder / name}", "machine.save_every_steps=1", "machine.keep_checkpoints=9",
            "recipe.anomalies.on_not_finite=skip", "recipe.batch_norm_group_images=8", *more,
        )  # fmt: skip

    assert run(config("whole", "machine.stop_after_steps=6"), (3, 5)) == "done"
    for steps in (3, 4, 6):
        assert run(config("parts", f"machine.stop_after_steps={steps}"), (3, 5)) == "done"


def test_a_skipped_step_changes_nothing_but_the_place_on_two_processes_and_through_restarts(tmp_path):
    run_distributed(2, _skipping, tmp_path)
    states = kept(tmp_path / "whole")
    assert_bit_equal(trained(states[2]), trained(states[1]))
    assert_bit_equal(trained(states[4]), trained(states[3]))
    assert not torch.equal(
        states[3]["model"]["projection.linear_1.weight"], states[2]["model"]["projection.linear_1.weight"]
    )
    lines = read_metrics(tmp_path / "whole" / "metrics.jsonl")
    assert [(line["loss"] is None, line["contrastive_top1"] is None, line.get("skipped")) for line in lines] == [
        (True, True, 1.0) if number in (3, 5) else (False, False, None) for number in range(1, 7)
    ]
    found = read_anomalies(tmp_path / "whole")
    assert [(entry["step"], entry["kind"], entry["action"]) for entry in found] == [
        (3, "not finite", "skip"), (5, "not finite", "skip"),
    ]  # fmt: skip
    for one, other in zip(states, kept(tmp_path / "parts"), strict=True):
        assert_bit_equal(one, other)
    assert read_anomalies(tmp_path / "parts") == found


def _going_back(folder: Path) -> None:
    def config(name: str, *more: str) -> Config:
        return tiny_config(
            folder, f"machine.run_dir={folder / name}", "machine.keep_checkpoints=99", "machine.save_every_steps=1",
            "recipe.anomalies.on_not_finite=go_back", "recipe.anomalies.rollback_every_steps=4", *more,
        )  # fmt: skip

    assert run(config("whole", "machine.stop_after_steps=9"), (7,)) == "done"
    for steps in (5, 7, 9):  # with another interval between saves: it must not decide where the run goes back to
        parts = config("parts", f"machine.stop_after_steps={steps}", "machine.save_every_steps=5")
        assert run(parts, (7,)) == "done"


@pytest.mark.parametrize("count", [1, 2])
def test_a_run_goes_back_to_its_rollback_point_whatever_was_saved_and_when_it_was_restarted(tmp_path, count):
    run_distributed(count, _going_back, tmp_path)
    states = kept(tmp_path / "whole")
    assert [state["step"] for state in states] == list(range(1, 10))
    assert_bit_equal(trained(states[6]), trained(states[3]))
    assert not torch.equal(
        states[7]["model"]["projection.linear_1.weight"], states[4]["model"]["projection.linear_1.weight"]
    )
    assert read_metrics(tmp_path / "whole" / "metrics.jsonl")[6]["returned_to_step"] == 4
    assert_bit_equal(states[8] | {"anchor": None}, final_state(tmp_path / "parts") | {"anchor": None})
    assert_bit_equal(trained(states[8]["anchor"]), trained(states[7]))
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")


def test_a_run_that_begins_between_two_rollback_points_goes_back_to_its_beginning(tmp_path):
    """Through a restart after its first step, too."""
    assert run(tiny_config(tmp_path, "machine.stop_after_steps=3"), ()) == "done"
    begun = final_state(tmp_path / "run")
    for name, stops in (("whole", (6,)), ("parts", (4, 6))):
        for stop in stops:
            config = tiny_config(
                tmp_path, f"machine.run_dir={tmp_path / name}", f"recipe.initial.weights={tmp_path / 'run'}",
                "recipe.initial.what=all", "recipe.initial.optimizer=kept", "recipe.initial.steps_done=3",
                "recipe.anomalies.on_not_finite=go_back", f"machine.stop_after_steps={stop}",
                "machine.save_every_steps=1",
            )  # fmt: skip
            assert run(config, (5,)) == "done"
    returned = checkpoint.load(tmp_path / "whole" / "checkpoints" / "step_000000005.pt")
    assert_bit_equal(returned["model"], begun["model"])
    assert read_metrics(tmp_path / "whole" / "metrics.jsonl")[1]["returned_to_step"] == 3
    assert_bit_equal(trained(final_state(tmp_path / "parts")), trained(final_state(tmp_path / "whole")))


def turned_away(features: torch.Tensor) -> torch.Tensor:
    """One view of every pair points the other way, so that the two are as unlike as the encoder can make them."""
    return features * torch.where(torch.arange(len(features)) % 2 == 1, -1.0, 1.0)[:, None]


@pytest.mark.parametrize(
    ("policy", "back_at", "metric"), [("skip", 14, "skipped"), ("go_back", 12, "returned_to_step")]
)
def test_a_loss_that_jumps_in_a_run_is_answered_as_the_recipe_says(tmp_path, policy, back_at, metric):
    config = tiny_config(
        tmp_path, "machine.stop_after_steps=15", "machine.save_every_steps=1", "machine.keep_checkpoints=99",
        f"recipe.anomalies.on_jump={policy}", "recipe.anomalies.window_steps=10",
        "recipe.anomalies.jump_deviations=3", "recipe.anomalies.rollback_every_steps=4",
    )  # fmt: skip
    poisoned((15,), turned_away, lambda: pretrain_here(config))
    (found,) = read_anomalies(tmp_path / "run")
    assert (found["step"], found["kind"], found["action"]) == (15, "jump", policy)
    metrics = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert found["value"] == metrics[14]["loss"] > max(line["loss"] for line in metrics[:14])
    assert metrics[14][metric] == (1 if policy == "skip" else back_at)
    states = kept(tmp_path / "run")
    assert_bit_equal(trained(states[14]), trained(states[back_at - 1]))
    assert not torch.equal(*(states[step]["model"]["projection.linear_1.weight"] for step in (12, 13)))


def test_a_run_stops_when_it_has_skipped_or_gone_back_as_often_as_it_may(tmp_path):
    skipping = ("recipe.anomalies.on_not_finite=skip", "recipe.anomalies.max_skipped_steps=1")
    complaint = run(tiny_config(tmp_path, *skipping), (2, 4))
    assert (
        ": the run stops at recipe.anomalies.max_skipped_steps; with a higher one it continues from here" in complaint
    )
    more = ("machine.stop_after_steps=5", "recipe.anomalies.on_not_finite=skip", "recipe.anomalies.max_skipped_steps=2")
    assert run(tiny_config(tmp_path, *more), (2, 4)) == "done"
    returning = ("recipe.anomalies.on_not_finite=go_back", "recipe.anomalies.max_returns=1")
    complaint = run(tiny_config(tmp_path, f"machine.run_dir={tmp_path / 'other'}", *returning), (2, 4))
    assert ": the run stops at recipe.anomalies.max_returns" in complaint
    assert [entry["action"] for entry in read_anomalies(tmp_path / "other")] == ["go_back", "stop"]


def test_of_the_policies_only_those_may_change_that_leave_the_way_so_far_as_it_was(tmp_path):
    def config(policy: str, *more: str) -> Config:
        return tiny_config(tmp_path, f"recipe.anomalies.on_not_finite={policy}", "machine.stop_after_steps=2", *more)

    assert run(config("stop"), ()) == "done"
    with pytest.raises(UserError, match="on_not_finite is 'stop' there and 'go_back' here"):
        pretrain_here(config("go_back"))
    assert run(config("skip"), ()) == "done"
    with pytest.raises(UserError, match="on_jump is 'warn' there and 'skip' here"):
        pretrain_here(config("skip", "recipe.anomalies.on_jump=skip"))


def test_a_checkpoint_from_before_there_were_anomalies_is_resumed(tmp_path):
    run(tiny_config(tmp_path, "machine.stop_after_steps=2"), ())
    state = final_state(tmp_path / "run")
    del state["anomalies"], state["recipe"]["anomalies"]
    checkpoint.save(tmp_path / "run" / "checkpoints", state, 2, keep=3)
    assert run(tiny_config(tmp_path, "machine.stop_after_steps=3"), ()) == "done"
    assert final_state(tmp_path / "run")["anomalies"]["losses"] == losses(tmp_path / "run")[2:]


def test_a_folder_of_an_earlier_version_which_called_the_message_told_keeps_its_record(tmp_path):
    def config(steps: int) -> Config:
        stop = f"machine.stop_after_steps={steps}"
        return tiny_config(tmp_path, "recipe.anomalies.on_not_finite=skip", stop)

    def as_before(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{"told" if key == "message" else key: value for key, value in entry.items()} for entry in found]

    assert run(config(3), (2,)) == "done"
    found = read_anomalies(tmp_path / "run")
    assert found[0]["message"] == "loss is nan"
    file = tmp_path / "run" / "anomalies.json"
    file.write_text(json.dumps(as_before(found)))
    assert read_anomalies(tmp_path / "run") == found
    state = final_state(tmp_path / "run")
    state["anomalies"]["found"] = as_before(found)
    checkpoint.save(tmp_path / "run" / "checkpoints", state, 3, keep=3)
    assert run(config(4), ()) == "done"
    assert json.loads(file.read_text()) == final_state(tmp_path / "run")["anomalies"]["found"] == found


def test_weights_that_an_update_has_spoilt_are_never_the_last_good_checkpoint(tmp_path, monkeypatch):
    call = TrainingStep.__call__

    def spoiling(self, images, steps_done):
        values = call(self, images, steps_done)
        if steps_done + 1 == 4:
            next(self.method.projection.parameters()).data.mul_(math.inf)
        return values

    monkeypatch.setattr(TrainingStep, "__call__", spoiling)
    complaint = run(tiny_config(tmp_path, "machine.save_every_steps=2"), ())
    assert "loss is nan at step 5 (the weights projection.linear_1.weight are not finite before the step" in complaint
    assert complaint.endswith("step_000000002.pt")
    assert final_state(tmp_path / "run")["step"] == 2
    assert len(losses(tmp_path / "run")) == 4


def test_what_was_found_and_is_found_again_after_a_restart_stands_in_the_file_once(tmp_path):
    policy = ("recipe.anomalies.on_not_finite=skip", "machine.save_every_steps=2")
    assert run(tiny_config(tmp_path, *policy, "machine.stop_after_steps=4"), (3,)) == "done"
    (tmp_path / "run" / "checkpoints" / "step_000000004.pt").unlink()  # as after a kill in step 5
    assert run(tiny_config(tmp_path, *policy, "machine.stop_after_steps=5"), (3,)) == "done"
    found = json.loads((tmp_path / "run" / "anomalies.json").read_text())
    assert [entry["step"] for entry in found] == [3]
    facts = read_facts(tmp_path / "run", "run")
    table, curves = anomaly_table(facts.anomalies), training_curves([facts])
    assert "loss is nan" in table
    assert "skipped the step" in table
    assert "first not finite: the output of encoder" in table
    assert "run: loss is nan at step 3; it skipped the step" in curves
    assert "Gradient norm" in curves
    assert "skipped<" not in curves


# ---------------------------------------------------------------------------------------------------------- and where


def _on_process_1(features: torch.Tensor) -> torch.Tensor:
    return features * math.inf if process_rank() == 1 else features


def _where(folder: Path) -> str:
    config = tiny_config(folder, "machine.stop_after_steps=3", "recipe.batch_norm_group_images=8")
    try:
        poisoned((2,), _on_process_1, lambda: pretrain_here(config))
    except UserError as error:
        return str(error)
    return "done"


def test_the_process_on_which_numbers_went_wrong_first_is_named_on_all(tmp_path):
    for complaint in run_distributed(2, _where, tmp_path):
        assert "at step 2 (on process 1 on " in complaint
        assert ", first not finite: the output of encoder (Encoder)" in complaint


@pytest.mark.parametrize(
    "machine", [(), ("machine.recompute=all",), ("machine.images_per_chunk=8", "recipe.batch_norm_group_images=8")]
)
def test_a_layer_that_overflows_is_named_with_what_went_in_and_the_gradient_that_does_too(
    tmp_path, machine, monkeypatch
):
    def complaint_of(layer: str, backward: bool) -> str:
        folder = tmp_path / f"{layer} {backward}"
        folder.mkdir()
        build = training_step.build_method

        def with_overflow(*arguments):
            method = build(*arguments)
            bad = _Overflow.apply if backward else overflow
            method.get_submodule(layer).register_forward_hook(lambda *its: bad(its[2]) if NOW["step"] == 2 else None)
            return method

        monkeypatch.setattr(training_step, "build_method", with_overflow)
        complaint = run(tiny_config(folder, *machine), ())
        monkeypatch.setattr(training_step, "build_method", build)
        return complaint

    name = "encoder.backbone.layer2.0.bn1"
    assert f"first not finite: the output of {name} (GroupedBatchNorm): " in complaint_of(name, backward=False)
    assert "input at most " in complaint_of("encoder.backbone.layer3.0.conv2", backward=False)
    found = complaint_of(name, backward=True)
    assert "gradient norm is " in found
    # The layer below is the first that this gradient reaches.
    assert "first not finite: the gradient that reaches the output of encoder.backbone.layer2.0.conv1 (Conv2d)" in found


class _Overflow(torch.autograd.Function):
    """The identity, whose gradient overflows."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * math.inf


@pytest.mark.parametrize("debug", [True, False])
def test_a_fault_that_does_not_come_again_is_called_one_and_debug_numerics_catches_it_at_once(tmp_path, debug):
    times = []

    def once(features: torch.Tensor) -> torch.Tensor:
        times.append(1)
        return features * (math.inf if len(times) == 1 else 1)

    config = tiny_config(tmp_path, f"machine.debug_numerics={str(debug).lower()}")
    with pytest.raises(UserError) as stopped:
        poisoned((2,), once, lambda: pretrain_here(config))
    expected = "first not finite: the output of encoder" if debug else "a memory or GPU may be faulty"
    assert expected in str(stopped.value)
