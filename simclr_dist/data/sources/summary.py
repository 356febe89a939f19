"""What a command says of the images that it has opened, in one line."""

import numpy as np

from simclr_dist.data.sources.base import ImageSource, Subset, with_masks
from simclr_dist.data.sources.beton.source import BetonSource
from simclr_dist.data.sources.files import FileSource
from simclr_dist.data.sources.shards.source import ShardSource
from simclr_dist.terminal import printable, say


def summary(source: ImageSource, name: str) -> str:
    """How many images in how many classes, and what was left out and why.

    ``name`` is that of the source, for images that do not lie in a folder or file of their own.
    """
    whole = source
    while isinstance(whole, Subset):
        whole = whole.source
    held = whole.root if isinstance(whole, FileSource) else name
    if isinstance(whole, BetonSource | ShardSource):
        held = whole.path
    place = printable(str(held))
    classes = "without classes" if source.labels is None else f"in {len(np.unique(source.labels)):,} classes"
    if masked := with_masks(source):
        classes += f", with masks of {len(masked.mask_classes)} classes"
    return "; ".join([f"{place}: {len(source):,} images {classes}", *getattr(whole, "remarks", ())])


def say_what_was_found(*summaries: str) -> None:
    """One line on the terminal, beside the output of a command."""
    say(" | ".join(summaries), err=True)
