"""What the tests of the evaluation start from."""

from pathlib import Path

import pytest

from tests.support.processes import pretrain_here, tiny_config


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """The folder of a run that ended after its first step."""
    pretrain_here(tiny_config(tmp_path, "recipe.global_batch_images=256", "machine.stop_after_steps=1"))
    return tmp_path / "run"
