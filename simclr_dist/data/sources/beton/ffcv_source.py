"""Images in a .beton file with the pixels that ffcv's decoder makes of them."""

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from simclr_dist.data.sources.beton.ffcv_library import decode_as_ffcv, require_ffcv
from simclr_dist.data.sources.beton.source import BetonSource, open_beton
from simclr_dist.data.sources.pixels import PixelRule


def open_ffcv(path: Path, split: str, rule: PixelRule) -> "FfcvSource":
    """The file of a split, found as :func:`open_beton` does.

    Raises:
        UserError: there is no such file, it is refused, or ffcv is not installed.
    """
    source = open_beton(path, split, rule, FfcvSource)
    assert isinstance(source, FfcvSource)
    return source


class FfcvSource(BetonSource):
    """A .beton file for ffcv's loader (data/loading/ffcv_steps.py), checked at opening as :class:`BetonSource` is.

    :meth:`read` reads one image without that loader and makes the same pixels, for whatever else asks for images.
    """

    def __init__(self, path: Path, rule: PixelRule | None = None) -> None:
        """Open and check a file.

        Raises:
            UserError: as :class:`BetonSource` says, or ffcv is not installed.
        """
        super().__init__(path, rule)
        require_ffcv()

    def fingerprint(self) -> str:
        # Features that are kept of these pixels are none of the file's pixels by another decoder.
        return hashlib.sha256(f"ffcv {super().fingerprint()}".encode()).hexdigest()

    def _decoded(self, payload: NDArray[np.uint8], shape: tuple[int, int, int]) -> NDArray[np.uint8] | None:
        # Not above: numba takes a second to import, and other sources do without it.
        from simclr_dist.data.rendering.kernels.jpeg import jpeg_header

        height, width, _ = jpeg_header(payload)
        # ffcv's decoder scales, or leaves pixels as they were, when a file is not of the size that it is told.
        return decode_as_ffcv(payload, height, width) if (height, width, 3) == shape else None
