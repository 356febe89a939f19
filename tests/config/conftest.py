"""What several tests of configs begin with."""

from pathlib import Path

import pytest

from tests.support.configs import MINIMAL


@pytest.fixture
def minimal(tmp_path: Path) -> str:
    path = tmp_path / "minimal.yaml"
    path.write_text(MINIMAL)
    return str(path)
