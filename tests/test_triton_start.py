"""Whether Triton starts programs here, and what is said."""

from importlib.util import find_spec

import pytest
import torch

from simclr_dist.triton_start import starts_programs


@pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")
@pytest.mark.skipif(torch.cuda.is_available(), reason="Triton can start programs here")
def test_where_triton_cannot_start_programs_one_line_says_why(logged):
    starts_programs.cache_clear()
    assert not starts_programs()
    assert not starts_programs()
    assert [line for line in logged if "torch's own operations" in line and "active drivers" in line] == logged
    assert len(logged) == 1
