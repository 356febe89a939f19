"""A short drill: one run killed at every kind of moment; benchmarks/drill.py is the long one, with the real command.

Here a process kills itself at a place in the code, so each moment is hit for sure.
"""

import os
import signal
from pathlib import Path
from typing import Any

from simclr_dist.config import Config
from simclr_dist.distributed.collectives import process_rank
from simclr_dist.evaluation import online
from simclr_dist.run import checkpoint, checksum
from simclr_dist.run.newest import load_newest
from simclr_dist.training.step import TrainingStep
from tests.support.processes import (
    Running,
    assert_bit_equal,
    final_state,
    losses,
    pretrain_here,
    run_distributed,
    tiny_config,
)

# Kind of moment -> where the code is then, the rank that kills itself there, and the how-manieth time that it comes by.
MOMENTS: dict[str, tuple[Any, str, int, int]] = {
    "in a step": (TrainingStep, "compute_gradients", 1, 5),
    "while a checkpoint is half written": (checksum._Hashed, "finish", 0, 2),
    "when a checkpoint is whole and has no name yet": (checkpoint, "verify", 0, 2),
    "when a checkpoint has its name and the older ones are there": (checkpoint, "by_age", 0, 3),
    "while a checkpoint is loaded": (checkpoint, "load_shared", 1, 1),
    "during an online evaluation": (online, "knn_accuracy", 1, 1),
}
STEPS = 24


def killed(config: Config, moment: str) -> None:
    """The run, of which one process kills itself at the moment."""
    owner, name, rank, times = MOMENTS[moment]
    plain, came = getattr(owner, name), 0

    def come_by(*arguments: Any, **others: Any) -> Any:
        nonlocal came
        came += 1
        if came == times and process_rank() == rank:
            os.kill(os.getpid(), signal.SIGKILL)
        return plain(*arguments, **others)

    setattr(owner, name, come_by)
    pretrain_here(config)


def test_a_run_killed_at_every_kind_of_moment_ends_bit_equal_to_one_that_never_was(tmp_path: Path) -> None:
    def config(run: str) -> Config:
        return tiny_config(
            tmp_path, f"machine.run_dir={tmp_path / run}", "recipe.global_batch_images=96", "recipe.epochs=4",
            "machine.save_every_steps=2", "machine.evaluate_every_epochs=1", f"machine.stop_after_steps={STEPS}",
        )  # fmt: skip

    run_distributed(2, pretrain_here, config("whole"))
    saved = 0
    for moment, (_, _, rank, _) in MOMENTS.items():
        running = Running(2, killed, config("killed"), moment)
        running.processes[rank].join(timeout=60)
        assert running.processes[rank].exitcode == -signal.SIGKILL, moment
        running.kill()  # the other one too, wherever it is
        found = load_newest(tmp_path / "killed" / "checkpoints")
        path, complaints = found.path, found.complaints
        assert complaints == [], moment
        step = checkpoint.load(path)["step"] if path else 0
        assert step >= saved, f"{moment}: lost what was saved"
        saved = step
    assert 0 < saved < STEPS
    run_distributed(2, pretrain_here, config("killed"))
    assert len(losses(tmp_path / "whole")) == STEPS
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")
    assert_bit_equal(final_state(tmp_path / "killed"), final_state(tmp_path / "whole"))
