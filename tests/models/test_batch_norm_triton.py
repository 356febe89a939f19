"""Batch norm's programs for a GPU, in Triton's interpreter on a CPU, against the CPU's kernels in float64."""

from importlib.metadata import version
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from torch import Tensor

from simclr_dist.models import batch_norm_cpu, batch_norm_triton
from tests.support.interpreted_norms import Case, interpreted, made
from tests.support.processes import relative_error

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")
NCHW, NHWC = torch.contiguous_format, torch.channels_last
# Type, exact to, rounded to: the interpreter cuts bfloat16 where a GPU rounds.
DTYPES = {torch.float64: (1e-13, 1e-13), torch.float32: (1e-6, 1e-6), torch.bfloat16: (1e-6, 8e-3)}
# Rows that fill no tile, more channels than one tile has, pixels on a line, features; groups; layout.
SHAPES = {
    "one group": ((12, 6, 5, 4), 1, NCHW), "three groups": ((12, 6, 5, 4), 3, NCHW),
    "channels_last": ((12, 6, 5, 4), 3, NHWC), "wide, channels_last": ((8, 130, 3, 3), 2, NHWC),
    "pixels on a line": ((12, 6, 7), 3, NCHW), "features": ((12, 6), 3, NCHW),
}  # fmt: skip


def drawn(*shape: int, dtype: torch.dtype, layout: torch.memory_format = NCHW) -> Tensor:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(len(shape)), dtype=torch.float64)
    return (3 + 2 * values).to(dtype).contiguous(memory_format=layout)


def case(shape: tuple[int, ...], groups: int, layout: torch.memory_format, dtype: torch.dtype) -> Case:
    precise = torch.promote_types(dtype, torch.float32)
    x = drawn(*shape, dtype=dtype, layout=layout)
    weight, bias = drawn(2, shape[1], dtype=precise).sin()
    return Case(x, torch.empty_like(x).copy_(x.sin()), weight, bias, drawn(2, groups, shape[1], dtype=precise))


ALL_TYPES = ("three groups", "channels_last")  # a way through the programs each; the other shapes in one type
TYPES = {name: tuple(DTYPES) if name in ALL_TYPES else (torch.float32,) for name in SHAPES}
TYPES |= {"wide, channels_last": (torch.float64,), "features": (torch.bfloat16,)}
CASES = {f"{name}, {dtype}": (*shape, dtype) for name, shape in SHAPES.items() for dtype in TYPES[name]}

RECTIFIED = ["three groups, torch.float32", "wide, channels_last, torch.float64", "features, torch.bfloat16"]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Tensor]]:
    if version("triton").startswith("3.6.") and np.lib.NumpyVersion(np.__version__) >= "2.4.0":
        pytest.skip("Triton 3.6's interpreter asks numpy for scalars of arrays, which numpy 2.4 refuses")
    cases = {name: case(*each) for name, each in CASES.items()}
    return interpreted(cases, RECTIFIED, tmp_path_factory.mktemp("interpreted"))


@pytest.mark.parametrize("name", CASES)
def test_programs_for_a_gpu_make_what_float64_makes(name, found):
    dtype = CASES[name][-1]
    given = case(*CASES[name])
    expected = made(batch_norm_cpu, Case(*(tensor.double() for tensor in given)))
    exact, rounded = DTYPES[dtype]
    for what, value in found[name].items():
        assert (value.dtype, value.stride()) == (made(batch_norm_cpu, given)[what].dtype, expected[what].stride()), what
        assert relative_error(value.double(), expected[what]) < (rounded if value.dtype == dtype else exact), what


@pytest.mark.parametrize("name", RECTIFIED)
def test_sum_and_relu_in_batch_norms_own_pass_have_the_bits_of_three_steps(name, found):
    together, apart = (found[f"{name}, rectified, {way}"] for way in (True, False))
    assert len(together) == len(apart) == 12
    for what, value in together.items():
        if CASES[name][-1] == torch.bfloat16:  # torch rounds the sum where the interpreter cuts it
            assert relative_error(value.double(), apart[what].double()) < 2e-2, what
        else:
            assert torch.equal(value, apart[what]), what
        assert value.stride() == apart[what].stride()
        assert value.any()


def test_parts_hold_every_row_once_whatever_the_size():
    for shape, groups in [((256, 64, 112, 112), 1), ((256, 2048, 7, 7), 8), ((12, 6), 3), ((4096, 128), 1)]:
        x = torch.empty(shape, device="meta").contiguous(memory_format=NHWC if len(shape) == 4 else NCHW)
        cut = batch_norm_triton._cut(x, groups)
        assert (cut.parts - 1) * cut.part < cut.rows <= cut.parts * cut.part
        assert cut.part % cut.tile_rows == 0
        assert cut.rows == x.numel() // shape[1] // groups
