"""Small states of a run, and files that hold them."""

import io

import torch

from simclr_dist.run.checksum import write_with_checksum


def state(value: float) -> dict:
    return {"model": {"w": torch.full((100, 10), value)}, "recipe": {"seed": 1, "data": {"mean": [0.1, 0.2]}}}


def sealed(content: object) -> bytes:
    """A file whose checksum holds, whatever is in it."""
    file = io.BytesIO()
    write_with_checksum(file, content)
    return file.getvalue()
