"""Images with known pixels: in memory, encoded, in files, and read back from a source."""

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from simclr_dist.config.recipe import Data
from simclr_dist.config.shards import Shards
from simclr_dist.data.sources.base import ImageSource
from simclr_dist.data.sources.named import open_source as open_named

COLOR = (200, 90, 30)
NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))


def plain(mode: str, color: object) -> Image.Image:
    return Image.new(mode, (5, 4), color)


def encoded(image: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def photo(height: int = 48, width: int = 48, seed: int = 0) -> Tensor:
    """Smooth colours with some noise: pure noise would be grey after resizing."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randint(0, 256, (3, 5, 5), generator=generator, dtype=torch.uint8)
    noise = torch.randint(0, 20, (3, height, width), generator=generator)
    smooth = tv.resize(coarse, [height + 1, width + 1])[:, :height, :width]  # torch cannot resize to a single pixel
    return (smooth.int() + noise).clamp(0, 255).to(torch.uint8)


def write_image(path: Path, color: tuple[int, int, int] = COLOR, size: tuple[int, int] = (6, 4)) -> None:
    """A PNG of one colour, ``size`` is (width, height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        Image.new("RGB", size, color).save(file, "PNG")


def open_source(data: Data, split: str = "pretrain", shards: Shards | None = None) -> ImageSource:
    """As the package's own, with the machine's defaults."""
    return open_named(data, shards or Shards(), split)


def opened(source: str, path: Path, split: str = "pretrain") -> ImageSource:
    return open_source(Data(source=source, path=str(path)), split)


def first_pixel(source: ImageSource, sample: int) -> tuple[int, ...]:
    return tuple(source.read(sample)[:, 0, 0].tolist())
