"""The pixel loops of the fast renderer, compiled by numba; plain arrays in and out."""

from typing import Any

import numba

compiled: Any = numba.njit(cache=True, nogil=True, error_model="numpy")
"""Compile without the interpreter; kept on disk, so that only the first run on a machine waits for the compiler."""
