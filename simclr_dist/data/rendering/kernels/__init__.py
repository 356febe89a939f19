"""The pixel loops of the fast renderer, compiled by numba; plain arrays in and out."""

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path
from types import FunctionType
from typing import Any

import numba

from simclr_dist.data.rendering.kernels.cache_folder import last_resort

_HERE = Path(__file__).parent
SOURCES = [*sorted(_HERE.glob("*.py")), _HERE.parent / "numba_.py", _HERE.parents[1] / "views" / "geometry.py"]
"""All that is compiled, and what it takes constants from."""


def digest_of(sources: Iterable[Path]) -> str:
    """Changes when a source does."""
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:16]


DIGEST = digest_of(SOURCES)
"""Stands in the name of every compiled kernel that is kept."""


is_kept = True
"""Whether another process finds what this one compiles."""


def compiled(function: Callable[..., Any]) -> Any:
    """Compile without the interpreter; kept on disk, so that only the first run on a machine waits for the compiler.

    numba looks at the file of the outermost function alone when it asks whether what it kept is still good; the name
    under which it keeps a function says here what all the files were.
    """
    assert isinstance(function, FunctionType)
    named = FunctionType(function.__code__, function.__globals__, function.__name__, closure=function.__closure__)
    named.__qualname__ = f"{function.__qualname__}_{DIGEST}"
    named.__module__ = function.__module__
    global is_kept
    try:
        return numba.njit(cache=True, nogil=True, error_model="numpy")(named)
    except RuntimeError:  # no folder to keep it in
        with last_resort() as is_kept:
            return numba.njit(cache=is_kept, nogil=True, error_model="numpy")(named)
