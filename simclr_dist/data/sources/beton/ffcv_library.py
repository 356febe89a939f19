"""What of ffcv is used without importing it: its compiled library, in which its JPEG decoder stands.

``import ffcv`` compiles for 4 to 15 s and sets the threads of torch and numba; whoever only reads images (evaluation,
previews, pictures of a report) needs none of that.
"""

from ctypes import CDLL, c_bool, c_int, c_uint, c_uint32, c_uint64, c_ulong, c_void_p
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simclr_dist.errors import UserError, first_line

_INSTEAD = "or recipe.data.source=beton, which reads the same file without it"


def require_ffcv() -> None:
    """Refuse to begin what needs ffcv where it is missing or cannot be loaded.

    Raises:
        UserError: saying how to get it.
    """
    _library()


def decode_as_ffcv(payload: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8] | None:
    """The pixels of a JPEG of that size by ffcv's decoder, (height, width, 3); None when it refuses the data.

    libjpeg-turbo's fast transform: up to 6/255 from the exact one of other readers.
    """
    pixels = np.empty((height, width, 3), dtype=np.uint8)
    size = (height, width)
    status = _library().imdecode(
        payload.ctypes.data, payload.size, *size, pixels.ctypes.data, *size, 0, 0, 1, 1, False, False
    )
    return None if status else pixels


@cache
def crc32_of_zlib() -> Any:
    """zlib's crc32(start, address, bytes) for compiled loops; OpenCV, which ffcv needs, needs zlib too.

    Raises:
        UserError: it is not found.
    """
    try:
        function = CDLL("libz.so.1").crc32
    except OSError as error:
        raise UserError(
            f"recipe.data.source: 'ffcv' needs zlib ({first_line(error)}); install zlib1g, {_INSTEAD}"
        ) from error
    function.argtypes, function.restype = [c_ulong, c_void_p, c_uint], c_ulong
    return function


@cache
def _library() -> Any:
    found = find_spec("ffcv")
    if found is None or not found.submodule_search_locations:
        raise UserError(
            "recipe.data.source: 'ffcv' needs the package ffcv, which is not installed: run ./script/setup_ffcv in a "
            f"checkout (docs/data.md), {_INSTEAD}"
        )
    files = [file for folder in found.submodule_search_locations for file in sorted(Path(folder).glob("_libffcv*.so"))]
    try:
        library = CDLL(str(files[0]))
        library.imdecode.argtypes = [
            c_void_p, c_uint64, c_uint32, c_uint32, c_void_p, c_uint32, c_uint32,
            c_uint32, c_uint32, c_uint32, c_uint32, c_bool, c_bool,
        ]  # fmt: skip
        library.imdecode.restype = c_int
    except (OSError, IndexError, AttributeError) as error:
        raise UserError(
            f"recipe.data.source: ffcv is installed in {found.submodule_search_locations[0]} and cannot be loaded: "
            f"{first_line(error)}; its libraries (OpenCV, libturbojpeg) are needed on every node: "
            f"./script/system_packages installs them, {_INSTEAD}"
        ) from error
    return library
