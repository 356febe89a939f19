"""How a camera was held: the EXIF orientation of an image, read from its bytes without a decoder, and pixels turned.

Exif 2.32 (CIPA DC-008), tag 0x0112: where the row 0 and the column 0 of the stored pixels lie in what was seen.
"""

import struct

import numpy as np
from numpy.typing import NDArray

_TAG = 0x0112
_MARK = b"Exif\0\0"
_SHORT, _LONG = 3, 4
_APP1, _START_OF_SCAN, _END = 0xE1, 0xDA, 0xD9


def jpeg_orientation(data: bytes | NDArray[np.uint8]) -> int:
    """1 to 8, of a JPEG; 1, as it lies, where nothing else is said. Only the segments before the pixels are walked."""
    view, at = memoryview(data if isinstance(data, bytes) else data.data), 2
    while at + 4 <= len(view) and view[at] == 0xFF:
        marker = view[at + 1]
        if marker in (_START_OF_SCAN, _END):
            break
        if marker == 0xFF:  # a byte that fills up
            at += 1
            continue
        end = at + 2 + (view[at + 2] << 8 | view[at + 3])
        if marker == _APP1 and view[at + 4 : at + 10] == _MARK:
            return exif_orientation(view[at + 4 : end])
        at = end
    return 1


def exif_orientation(exif: bytes | memoryview) -> int:
    """The same of a block of EXIF, with or without its mark; damaged ones say nothing."""
    while exif[:6] == _MARK:
        exif = exif[6:]
    order = {b"II": "<", b"MM": ">"}.get(bytes(exif[:2]))
    if order is None:
        return 1
    try:
        (directory,) = struct.unpack_from(f"{order}I", exif, 4)
        (entries,) = struct.unpack_from(f"{order}H", exif, directory)
        for entry in range(directory + 2, directory + 2 + 12 * entries, 12):
            tag, kind = struct.unpack_from(f"{order}HH", exif, entry)
            if tag == _TAG and kind in (_SHORT, _LONG):
                (value,) = struct.unpack_from(f"{order}{'H' if kind == _SHORT else 'I'}", exif, entry + 8)
                return int(value) if 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1


def turned(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Pixels of shape (height, width, 3) as they were seen; for 5 to 8 height and width change places."""
    if orientation == 1:
        return pixels
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    upside_down, mirrored = orientation in (3, 4, 7, 8), orientation in (2, 3, 6, 7)
    return np.ascontiguousarray(pixels[:: -1 if upside_down else 1, :: -1 if mirrored else 1])
