"""Whether images have colours: what a source does not say of itself."""

import numpy as np

from simclr_dist.data.sources.base import BrokenImageError, ImageSource

_LOOKED_AT = 16
_SPREAD = 10
"""Between the channels of a pixel that is not grey; JPEG leaves less of it in grey images."""


def has_color(source: ImageSource) -> bool:
    """Whether one of a few images, spread over the source, has a pixel that is not grey, or none of them is read."""
    read = 0
    for sample in np.linspace(0, len(source) - 1, min(_LOOKED_AT, len(source))).astype(np.int64):
        try:
            image = source.read(int(sample)).short()
        except BrokenImageError:
            continue
        read += 1
        if int((image.amax(0) - image.amin(0)).max()) > _SPREAD:
            return True
    return read == 0
