"""What the segments before a JPEG's pixels say of it (ITU-T T.81, B.2), for loops that look at every file."""

from simclr_dist.data.rendering.kernels import compiled


@compiled
def jpeg_header(data):  # type: ignore[no-untyped-def]
    """(height, width, whether a segment may say how the image is turned) of uint8 (bytes,); sides 0 where none stand.

    A marker 0xC0 to 0xCF begins a frame, but for the three that define tables; 0xE1 an APP1 segment, as EXIF is.
    """
    height, width, may_be_turned = 0, 0, False
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xDA or marker == 0xD9:
            break
        if marker == 0xFF:  # a byte that fills up
            at += 1
            continue
        if marker == 0xE1:
            may_be_turned = True
        if 0xC0 <= marker <= 0xCF and marker != 0xC4 and marker != 0xC8 and marker != 0xCC and at + 9 <= len(data):
            height = data[at + 5] * 256 + data[at + 6]
            width = data[at + 7] * 256 + data[at + 8]
        at += 2 + data[at + 2] * 256 + data[at + 3]
    return height, width, may_be_turned
