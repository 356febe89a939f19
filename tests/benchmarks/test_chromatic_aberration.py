"""benchmarks/chromatic_aberration.py: what its lens does."""

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def test_red_is_magnified_and_blue_made_smaller_about_the_middle_of_a_tile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    pytest.importorskip("skimage")
    pytest.importorskip("sklearn")
    from chromatic_aberration import aberrant

    side = 201
    square = np.zeros((side, side, 3), dtype=np.uint8)
    square[50:151, 50:151] = 200
    shown = np.asarray(aberrant(Image.fromarray(square), 0.02)).astype(float)
    row = shown[side // 2] / 200  # through the middle: how wide each channel's square is now
    assert row.sum(0) == pytest.approx([101 * 1.02, 101, 101 * 0.98], abs=0.1)
    middle = (row * np.arange(side)[:, None]).sum(0) / row.sum(0)
    assert middle == pytest.approx([side // 2] * 3, abs=0.05)
    del sys.modules["chromatic_aberration"]
