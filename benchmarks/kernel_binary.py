"""The binaries that the programs of simclr_dist/losses/pair_kernel.py are on a GPU, made and read without one."""

import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import JITFunction, driver

from simclr_dist.losses.pair_kernel import KernelPairs

SHARED_LIMIT = 227 * 1024
"""Bytes of shared memory that a program may have on compute capability 9.0."""
HOPPER = GPUTarget("cuda", 90, 32)


@dataclass(frozen=True)
class Binary:
    """What a program takes of a streaming multiprocessor."""

    registers: int
    """Of a thread, at most 255."""
    spills: int
    """Instructions that move registers to or from local memory (STL, LDL), and bytes of stack."""
    wgmma: int
    """Matrix products of a whole warp group (HGMMA), fed from shared memory."""
    mma: int
    """Matrix products of single warps (HMMA), the way of earlier cards."""
    shared: int
    """Bytes of shared memory."""


class _Card:
    """As much of a driver as compiling asks for."""

    def get_current_target(self) -> GPUTarget:
        return HOPPER

    def get_current_device(self) -> int:
        return -1  # a cache of its own beside that of a card that is there

    def get_current_stream(self, device: int) -> int:
        return 0


@contextmanager
def _compiled_only() -> Iterator[dict[str, Any]]:
    """Inside, a launch compiles for :data:`HOPPER` and does not run; yields the kernels by name."""
    found: dict[str, Any] = {}
    run, before = JITFunction.run, driver._active

    def compiled(self: Any, *arguments: Any, grid: Any, warmup: bool, **constants: Any) -> None:
        found[self.__name__] = run(self, *arguments, grid=grid, warmup=True, **constants)

    JITFunction.run = compiled
    driver.set_active(_Card())
    try:
        yield found
    finally:
        JITFunction.run = run
        driver._active = before


def binaries(rows: int, width: int, *, gradient: bool = True) -> dict[str, Binary]:
    """Name of each program -> its binary, as one process and two launch them for ``rows`` rows of ``width`` numbers."""
    with _compiled_only() as kernels:
        KernelPairs(torch.empty(rows, width, device="meta"), 0, rows // 2, 0.1).sums()
        pairs = KernelPairs(torch.empty(rows, width, device="meta"), 0, rows, 0.1)
        pairs.loss(pairs.sums()[None])
        if gradient:
            scalar = torch.empty((), device="meta")
            pairs.gradient(torch.empty(rows, device="meta"), scalar, 1)
    return {name: read(kernel) for name, kernel in kernels.items()}


def read(kernel: Any) -> Binary:
    """Of a compiled kernel, by the cuobjdump that comes with Triton."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        texts = [
            subprocess.run([tool, option, file.name], capture_output=True, text=True, check=True).stdout
            for option in ("--dump-resource-usage", "--dump-sass")
        ]
    usage = re.search(r"REG:(\d+) STACK:(\d+)", texts[0])
    assert usage, texts[0]
    count = {name: len(re.findall(rf"\b{name}\b", texts[1])) for name in ("LDL", "STL", "HGMMA", "HMMA")}
    return Binary(
        registers=int(usage[1]),
        spills=count["LDL"] + count["STL"] + int(usage[2]),
        wgmma=count["HGMMA"],
        mma=count["HMMA"],
        shared=kernel.metadata.shared,
    )
