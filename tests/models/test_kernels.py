"""How exact torch's kernels are in float32, and whether they give the same bits again."""

from collections.abc import Iterator

import pytest
import torch

from simclr_dist.models.kernels import set_kernels


@pytest.fixture(autouse=True)
def settings_put_back() -> Iterator[None]:
    cudnn = torch.backends.cudnn
    before = cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark, torch.are_deterministic_algorithms_enabled()
    yield
    cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark = before[:3]
    torch.use_deterministic_algorithms(before[3], warn_only=True)
    torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float64", "tf32"])
def test_tf32_is_allowed_to_convolutions_alone_and_where_it_was_asked_for_alone(precision):
    torch.backends.cudnn.allow_tf32 = precision != "tf32"
    torch.set_float32_matmul_precision("medium")  # as a library, or a warning of torch's own, may advise
    set_kernels(deterministic=False, precision=precision)
    assert torch.backends.cudnn.allow_tf32 == (precision == "tf32")
    assert not torch.backends.cuda.matmul.allow_tf32
    assert torch.get_float32_matmul_precision() == "highest"


def test_deterministic_kernels_are_chosen_by_no_timing_compiled_ones_included():
    import torch._inductor.config as inductor

    torch.use_deterministic_algorithms(False)
    set_kernels(deterministic=True)
    assert inductor.deterministic
    assert torch.are_deterministic_algorithms_enabled()
    assert (torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark) == (True, False)
