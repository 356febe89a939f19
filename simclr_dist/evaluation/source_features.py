"""The features of all images of a source that can be read, and which cannot."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from simclr_dist import __version__
from simclr_dist.config.recipe import Data
from simclr_dist.data.sources.base import BrokenImageError, ImageSource
from simclr_dist.data.sources.whole import image_name
from simclr_dist.distributed.processes import first_goes_on
from simclr_dist.errors import UserError
from simclr_dist.evaluation.feature_blocks import FeatureMatrix, Features, not_finite
from simclr_dist.evaluation.features import Extraction, feature_matrix, why_not_finite
from simclr_dist.evaluation.subsets import Indices
from simclr_dist.progress_bar import said_when_slow
from simclr_dist.storage.paths import expanded
from simclr_dist.terminal import printable, say
from simclr_dist.weights.loaded import LoadedEncoder

_ROWS, _SHOWN = 16384, 5


@dataclass(frozen=True)
class SourceFeatures:
    """Features of the images of a source, in its order."""

    matrix: FeatureMatrix
    samples: Indices
    """Numbers of the images that could be read, ascending, shape (n,)."""
    rows: Indices
    """Where the features of each of these stand in ``matrix``, shape (n,)."""

    def blocks(self) -> Iterator[tuple[Indices, Features]]:
        """(numbers of images (r,), their features (r, d)), one block after the other."""
        for start in range(0, len(self.samples), _ROWS):
            part = slice(start, start + _ROWS)
            yield self.samples[part], self.matrix[self.rows[part]]


def source_features(
    encoder: nn.Module, source: ImageSource, image_size: int, how: Extraction
) -> tuple[SourceFeatures, dict[int, str]] | None:
    """The features, and number -> reason of the images that are broken, on process 0; None on the others.

    Every process calls it. ``how`` must leave broken images out.

    Raises:
        UserError: no image can be read, or an image's features are not finite.
    """
    assert how.leaves_out_broken
    matrix = feature_matrix(encoder, source, image_size, how)
    if not first_goes_on():
        return None
    with said_when_slow("looking for images that could not be read"):
        missing = not_finite(matrix)
    # Read once more: the kept features say that one could not be read, and not why.
    broken = {sample: _why_broken(source, sample) for sample in missing}
    if len(broken) == len(source):
        raise UserError(f"none of the {len(source)} images can be read; the first: {broken[0]}")
    samples = np.setdiff1d(np.arange(len(source)), np.array(missing, dtype=np.int64))
    return SourceFeatures(matrix, samples, samples), broken


def describe_features(
    loaded: LoadedEncoder, run: Path, source: ImageSource, data: Data, how: Extraction, found: SourceFeatures
) -> dict[str, Any]:
    """What features were made of, and how; nothing that depends on the number of processes."""
    return {
        "version": __version__,
        "encoder": loaded.source,
        "run": str(run.resolve()),
        "steps_done": loaded.steps_done,
        "encoder_sha256": loaded.sha256,
        "architecture": loaded.network,
        "image_size": data.image_size,
        "mean": loaded.mean,
        "std": loaded.std,
        "transparent_ground": data.transparent_ground,
        "apply_orientation": data.apply_orientation,
        "source": data.source,
        "folder": str(expanded("recipe.data.path", data.path).resolve()) if data.path else "",
        "images": len(source),
        "fingerprint": source.fingerprint(),
        "left_out_broken": np.setdiff1d(np.arange(len(source)), found.samples).tolist(),
        "classes": list(source.classes),
        "batch_images": how.batch_images,
        "device": how.device.type,
        "torch": torch.__version__,
    }


def say_what_is_broken(source: ImageSource, broken: dict[int, str], listed: str = "") -> None:
    """Name the first broken images and count all; ``listed``: where all of them stand."""
    for reason in list(broken.values())[:_SHOWN]:
        say(f"left out, broken: {reason}", err=True)
    if broken:
        where = f"; all are named in {listed}" if listed else ""
        say(f"left out, broken: {len(broken)} of {len(source)} images{where}", err=True)


def broken_lines(source: ImageSource, broken: dict[int, str]) -> str:
    """A line ``name<tab>reason`` for each broken image."""
    lines = []
    for sample, reason in broken.items():
        name = printable(image_name(source, sample))
        lines.append(f"{name}\t{reason.removeprefix(f'{name}: ')}\n")
    return "".join(lines)


def _why_broken(source: ImageSource, sample: int) -> str:
    try:
        source.read(sample)
    except BrokenImageError as error:
        return str(error)
    raise UserError(f"{why_not_finite(source, sample)}; if the image was mended meanwhile, start again")
