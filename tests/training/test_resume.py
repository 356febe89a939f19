"""Killed at any moment and started again, a run ends with the same bits."""

import random

import pytest
import yaml

from simclr_dist.errors import UserError
from simclr_dist.run import checkpoint
from tests.support.commands import run_command
from tests.support.earlier import as_stored_earlier
from tests.support.images import write_image
from tests.support.processes import (
    TINY,
    Running,
    assert_bit_equal,
    final_state,
    losses,
    pretrain_here,
    run_distributed,
    tiny_config,
    wait_for_step,
)

STEPS = 18


def test_a_run_killed_at_three_random_steps_ends_bit_equal_to_one_that_never_stopped(tmp_path):
    def config(run: str):
        return tiny_config(
            tmp_path,
            f"machine.run_dir={tmp_path / run}",
            "machine.save_every_steps=4",
            f"machine.stop_after_steps={STEPS}",
        )

    run_distributed(2, pretrain_here, config("whole"))
    steps = sorted(random.sample(range(1, STEPS - 1), 3))
    for step in steps:
        running = Running(2, pretrain_here, config("killed"))
        wait_for_step(tmp_path / "killed", step, running)
        running.kill()
    run_distributed(2, pretrain_here, config("killed"))
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole"), steps
    assert_bit_equal(final_state(tmp_path / "killed"), final_state(tmp_path / "whole"), f"killed at {steps}")


@pytest.mark.parametrize("action", ["warn", "go_back"])
def test_a_run_of_an_earlier_version_resumes_bit_equal(tmp_path, action):
    def config(run: str, steps: int):
        return tiny_config(
            tmp_path, f"machine.run_dir={tmp_path / run}", f"machine.stop_after_steps={steps}",
            "recipe.method.loss_scale=2.0", "recipe.views.hue=0.1", f"recipe.anomalies.on_jump={action}",
            "recipe.anomalies.rollback_every_steps=1",
        )  # fmt: skip

    run_distributed(1, pretrain_here, config("whole", 4))
    run_distributed(1, pretrain_here, config("earlier", 2))
    state = final_state(tmp_path / "earlier")
    assert ("anchor" in state) == (action == "go_back")
    state["recipe"] = as_stored_earlier(state["recipe"])
    checkpoint.save(tmp_path / "earlier" / "checkpoints", state, 2, keep=3)
    (tmp_path / "earlier" / "config.yaml").write_text(yaml.safe_dump({"recipe": state["recipe"]}))
    run_distributed(1, pretrain_here, config("earlier", 4))
    assert losses(tmp_path / "earlier") == losses(tmp_path / "whole")
    assert_bit_equal(final_state(tmp_path / "earlier"), final_state(tmp_path / "whole"))


def test_starting_a_finished_run_again_changes_nothing(tmp_path):
    config = tiny_config(tmp_path, "machine.stop_after_steps=3")
    run_distributed(1, pretrain_here, config)
    files = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*.pt")}
    outcome = run_distributed(1, pretrain_here, config)[0]
    assert outcome.steps_done == 3
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*.pt")} == files
    assert len(losses(tmp_path / "run")) == 3


def test_a_run_that_stopped_after_so_many_steps_as_asked_says_which_key_to_raise(tmp_path, capsys):
    (tmp_path / "tiny.yaml").write_text("recipe: {}\n")
    command = ["pretrain", tmp_path / "tiny.yaml", *TINY, f"machine.run_dir={tmp_path / 'run'}"]
    status, told, _ = run_command(capsys, *command, "machine.stop_after_steps=1")
    assert status == 0
    assert told.startswith("stopped after step 1 of ")
    assert "as machine.stop_after_steps=1 says; raise it, or set machine.stop_after_steps=0, to resume\n" in told
    assert "same command" not in told


def test_a_run_goes_on_with_a_file_that_the_disk_lost_for_a_while(tmp_path):
    for number in range(40):
        write_image(tmp_path / "images" / f"{number}.png")

    def until(step: int) -> None:
        pretrain_here(
            tiny_config(
                tmp_path, "recipe.data.source=folder", f"recipe.data.path={tmp_path / 'images'}", "recipe.epochs=9",
                f"machine.stop_after_steps={step}", "machine.max_broken_image_share=0.5",
            )
        )  # fmt: skip

    until(1)
    lost = tmp_path / "images" / "7.png"
    content = lost.read_bytes()
    lost.write_bytes(b"")  # as docs/data.md has it
    until(2)
    lost.write_bytes(content)
    until(3)
    assert len(losses(tmp_path / "run")) == 3
    lost.write_bytes(content + b"more")
    with pytest.raises(UserError, match="replaced under the same names"):
        until(4)
