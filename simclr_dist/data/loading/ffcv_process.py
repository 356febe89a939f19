"""What ffcv 1.0.2 changes in the process that it runs in, put back as it was (docs/design/ffcv.md)."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numba
import torch

_config: Any = numba.config


@contextmanager
def process_put_back() -> Iterator[None]:
    """The threads of torch and of numba are as before after the block, in which ffcv is imported or makes a loader."""
    # numba asks for its threads once in a process. TBB's, which it prefers, wait for each other for ever at the exit of
    # Python when ffcv's thread has used them and ended; NUMBA_THREADING_LAYER, where it is set, is obeyed.
    priority = list(_config.THREADING_LAYER_PRIORITY)
    _config.THREADING_LAYER_PRIORITY = sorted(priority, key="tbb".__eq__)
    torch_threads, numba_threads = torch.get_num_threads(), numba.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(torch_threads)
        numba.set_num_threads(numba_threads)
        _config.THREADING_LAYER_PRIORITY = priority


@contextmanager
def type_of_flat_arrays_kept() -> Iterator[None]:
    """Around the making of a loader, which marks numba's one type of flat uint8 arrays as read-only.

    Whatever was compiled for such arrays before would be found no more. While that type is not what its key says, ffcv
    is given another object, and marks that; nothing is collected meanwhile, as numba would look for it.
    """
    flat, collects = numba.uint8[::1], gc.isenabled()
    gc.disable()
    flat.mutable = False
    try:
        yield
    finally:
        flat.mutable = True
        if collects:
            gc.enable()
