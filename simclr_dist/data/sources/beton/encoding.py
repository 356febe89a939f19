"""How the images of a .beton file are stored."""

from dataclasses import asdict, dataclass
from typing import Any

MODES = ("auto", "jpeg", "raw")
CHROMA = ("420", "444")
RAW_BYTES = 64 * 64 * 3


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """How images are stored."""

    max_side: int = 256
    """Longest that the shorter side may be, pixels; 0: any. Larger images are resized, smaller ones never."""
    quality: int = 90
    """Of the JPEGs that are encoded here."""
    mode: str = "auto"
    """`raw` pixels, `jpeg`, or `auto`: raw where that is at most RAW_BYTES (64 x 64 pixels), else JPEG."""
    chroma: str = "420"
    """`420`: colour at half the resolution, as nearly all photographs have it; `444`: at the whole one."""

    def as_dict(self) -> dict[str, Any]:
        """For the sidecar."""
        return asdict(self)


def default_max_side(image_size: int) -> int:
    """Shorter side to keep for views of ``image_size`` pixels: 256 for 224, as is usual for ImageNet."""
    return round(image_size * 8 / 7)
