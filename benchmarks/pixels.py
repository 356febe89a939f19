"""Pixel contrast, forward and backward, in tiles beside one matrix an image: CPU seconds and memory.

    python benchmarks/pixels.py [--images 16] [--side 65] [--dim 256] [--loss cross] [--one-matrix-images 2]

One thread, 21 classes in squares, a tenth of the pixels ignored. The one matrix (its masks, and autograd's copies) may
take fewer images, as many at once as it is given; seconds an image are what compares. Every contender runs in a fresh
process, one after the other; memory is the growth of the peak resident set over its level with the embeddings made, so
with the gradient and all that the loss keeps.
"""

import argparse
import statistics
import subprocess
import sys
import time

import torch
from side_by_side import peak_mb
from torch import Tensor
from torch.nn import functional as F

from simclr_dist.losses.pixel_contrast import pixel_contrast
from simclr_dist.losses.plain_pixels import plain_pixel_contrast

CONTENDERS = [f"{form} {way}" for form in ("paper", "release") for way in ("tiles", "one matrix")]
TEMPERATURE, CLASSES = 0.07, 21


def made(images: int, side: int, dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """Unit rows (images, 2, pixels, d), labels and partners."""
    squares = torch.randint(CLASSES, (images, 1, 4, 4)).float()
    labels = F.interpolate(squares, (side, side)).long().flatten(2).expand(-1, 2, -1).clone()
    labels[torch.rand(images, side**2)[:, None].expand_as(labels) < 0.1] = 255
    z = torch.empty(images, 2, side**2, dim)
    for image in z:
        image.copy_(F.normalize(torch.randn(2, side**2, dim), dim=2))
    return z.requires_grad_(), labels, (torch.arange(images) + 1) % images


def measure(name: str, images: int, side: int, dim: int, loss: str, rounds: int) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    form, _, way = name.partition(" ")

    def step(z: Tensor, labels: Tensor, partners: Tensor) -> None:
        if way == "tiles":
            found = pixel_contrast(z, labels, TEMPERATURE, loss=loss, form=form, partners=partners)
        else:
            found = plain_pixel_contrast(z, labels, TEMPERATURE, loss, form, partners)
        found.backward()

    step(*made(2, 4, dim))  # what libraries take once is no contender's
    z, labels, partners = made(images, side, dim)
    before, seconds = peak_mb(), []
    for _ in range(rounds):
        z.grad = None
        started = time.process_time()
        step(z, labels, partners)
        seconds.append((time.process_time() - started) / images)
    print(f"{images:4} images {statistics.median(seconds):8.2f} CPU s an image  {peak_mb() - before:8.0f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--side", type=int, default=65)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--loss", choices=("within", "cross", "batch"), default="cross")
    parser.add_argument("--one-matrix-images", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--one", choices=CONTENDERS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        images = options.images if options.one.endswith("tiles") else options.one_matrix_images
        measure(options.one, images, options.side, options.dim, options.loss, options.rounds)
        return
    print(f"maps of {options.side} x {options.side}, d = {options.dim}, loss {options.loss}, one thread")
    for name in CONTENDERS:
        print(f"{name:<20}", end="", flush=True)
        subprocess.run([sys.executable, __file__, "--one", name, *sys.argv[1:]], check=True)


if __name__ == "__main__":
    main()
