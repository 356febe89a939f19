"""The kernel's binary for compute capability 9.0, made without a GPU; benchmarks/kernel.py prints all of them."""

import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest

from simclr_dist.losses import pair_kernel

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """benchmarks/kernel_binary.py, with a cache of its own: what is read was compiled now."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    import kernel_binary

    yield kernel_binary
    del sys.modules["kernel_binary"]


def test_programs_of_128_numbers_use_wgmma_without_spills_in_the_shared_memory_there_is(reader):
    found = reader.binaries(8192, 128)
    for name in ("pair_sums", "half_sums", "pair_gradient"):
        binary = found[name]
        print(f"{name}: {binary}")
        assert binary.spills == 0
        assert binary.shared <= reader.SHARED_LIMIT
        assert binary.mma == 0
    # Products of 128 x 64 x 128: 3 for the similarities, 3 for the gradient, in steps of 16.
    assert found["pair_sums"].wgmma == 3 * 128 // 16
    assert found["half_sums"].wgmma == 2 * 3 * 128 // 16  # of 64 rows each: two of 64 x 32
    assert found["pair_gradient"].wgmma == 3 * 128 // 16 + 3 * 64 // 16


def test_a_spill_is_noticed(reader, monkeypatch):
    # The tile's 128 x 64 similarities over 2 warps are 128 registers of a thread; wgmma takes 4.
    monkeypatch.setitem(pair_kernel.LAUNCHES, 64, (pair_kernel.Launch(warps=2),) * 2)
    binary = reader.binaries(256, 64, gradient=False)["pair_sums"]
    assert binary.spills > 0
    assert binary.wgmma == 0
    assert binary.mma > 0
