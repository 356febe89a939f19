"""Frozen features of a set of images.

Images go through in batches of one fixed shape whose borders do not depend on the number of processes, so the features
are equal to the bit on any number of them (and to float rounding for another ``batch_images``).
"""

import hashlib
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from simclr_dist.data.loading.plain import PlainBatches
from simclr_dist.data.loading.workers import load_steps
from simclr_dist.data.sources.base import ImageSource, Subset, pixel_rule_of
from simclr_dist.data.sources.identity import contents_digest
from simclr_dist.data.sources.whole import image_name
from simclr_dist.distributed.agreement import all_or_none, decided_by_first
from simclr_dist.distributed.collectives import gather_stacked, maximum, process_count, process_rank
from simclr_dist.distributed.cores import worker_count
from simclr_dist.errors import NotFiniteError
from simclr_dist.evaluation.feature_blocks import (
    FeatureMatrix,
    Features,
    block_file,
    keep_block,
    kept_blocks,
    mapped_blocks,
    not_finite,
)
from simclr_dist.models.features import evaluating, features_of
from simclr_dist.models.precision import half_precision
from simclr_dist.progress_bar import said_when_slow, showing_progress
from simclr_dist.terminal import printable, say
from simclr_dist.weights.digest import state_digest, structure_digest

_BATCHES_IN_BLOCK = 64
_FEW_IMAGES = 5000
_CPU = torch.device("cpu")


@dataclass(frozen=True, kw_only=True)
class Extraction:
    """How features are computed; nothing here but ``batch_images`` and ``autocast`` moves a bit of them."""

    batch_images: int = 64
    device: torch.device = _CPU
    autocast: torch.dtype | None = None
    """The half precision of the kernels, if any; the features are float32."""
    workers: int = 0
    """Processes that read images, for each process."""
    cache: Path | None = None
    """Folder where features are kept, block by block, under a digest of encoder, images and batch."""
    talks: bool = False
    """Whether progress is shown."""
    label: str = ""
    """Shown beside it."""
    leaves_out_broken: bool = False
    """The features of an image that cannot be read are NaN, and it is no error."""


def reading_workers(requested: int, cores: int, images: int) -> int:
    """Processes that read: as requested, or (-1) none for few images, else one for each of a process's ``cores``."""
    return worker_count(0 if requested < 0 and images < _FEW_IMAGES else requested, cores)


def extract_features(
    encoder: nn.Module, source: ImageSource, image_size: int, how: Extraction | None = None
) -> Features:
    """What ``encoder`` makes of all images in evaluation mode, shape (images, d), without augmentation.

    Each process computes its share and every process gets all. The encoder is left as it was found.

    Raises:
        UserError: an image cannot be read, or its features are not finite (only ``leaves_out_broken`` allows it).
    """
    return np.asarray(feature_matrix(encoder, source, image_size, how))


def feature_matrix(
    encoder: nn.Module, source: ImageSource, image_size: int, how: Extraction | None = None
) -> FeatureMatrix:
    """As :func:`extract_features`, but where features are kept they stay in their files."""
    how = how or Extraction()
    batches = -(-len(source) // how.batch_images)
    in_block = max(1, min(_BATCHES_IN_BLOCK, batches // 16))
    blocks = [range(start, min(start + in_block, batches)) for start in range(0, batches, in_block)]
    folder = folder_of_blocks(encoder, source, image_size, how)
    images = [min(block.stop * how.batch_images, len(source)) - block.start * how.batch_images for block in blocks]

    def check(number: int, values: Features) -> None:
        if not how.leaves_out_broken and (wrong := not_finite(values[: images[number]])):
            sample = blocks[number].start * how.batch_images + wrong[0]
            raise NotFiniteError(why_not_finite(source, sample))

    def checked_blocks(folder: Path) -> list[int]:
        numbers = kept_blocks(folder, len(blocks))
        with said_when_slow("looking at the features that are kept"):
            for number in numbers:
                check(number, mapped_blocks([block_file(folder, number)], images[number])[:])
        return numbers

    kept = set(decided_by_first(lambda: checked_blocks(folder) if folder else []))
    missing = [number for number in range(len(blocks)) if number not in kept]
    if kept and how.talks:
        count = sum(images[number] for number in kept)
        name = f"{how.label}: " if how.label else ""
        say(f"{name}{count} of {len(source)} images are done already: {folder}", err=True)
    found = np.empty((0, 0), dtype=np.float32)
    # In rounds of one block a process; the last round may leave some without.
    mine = missing[process_rank() :: process_count()]
    loaded = load_steps(
        PlainBatches(source, image_size, how.batch_images, how.leaves_out_broken),
        [batch for number in mine for batch in blocks[number]],
        workers=how.workers,
        pin_memory=how.device.type == "cuda",
    )
    with (
        closing(loaded) as loader,
        evaluating(encoder.to(how.device)),
        torch.inference_mode(),
        half_precision(how.device, how.autocast),
        showing_progress(
            sum(images[number] for number in missing), label=how.label, active=how.talks and bool(missing)
        ) as progress,
    ):
        for first in range(0, len(missing), process_count()):
            together = missing[first : first + process_count()]
            part, left = torch.zeros(0, 0), sum(images[number] for number in together)
            with all_or_none():
                if process_rank() < len(together):
                    parts = []
                    for _ in blocks[together[process_rank()]]:
                        parts.append(features_of(encoder, next(loader), how.device))
                        done = min(left, len(together) * how.batch_images)  # the others are about as far
                        progress(done)
                        left -= done
                    part = torch.cat(parts)
            for number, values in zip(together, _gathered(part, how.device), strict=False):
                check(number, values)
                values = values[: len(blocks[number]) * how.batch_images]
                if folder:
                    decided_by_first(partial(keep_block, folder, number, values))
                    continue
                if not len(found):
                    found = np.empty((len(source), *values.shape[1:]), dtype=np.float32)
                part_of_all = found[blocks[number].start * how.batch_images :][: len(values)]
                part_of_all[:] = values[: len(part_of_all)]
            progress(left)
    if folder is None:
        return found
    with all_or_none():
        return mapped_blocks([block_file(folder, number) for number in range(len(blocks))], len(source))


def why_not_finite(source: ImageSource, sample: int) -> str:
    """What is said of an image that can be read and has features that are not finite."""
    return (
        f"image {printable(image_name(source, sample))}: its features are not finite, and it can be read: the weights "
        "are those of a run that diverged, or broken; take others, an earlier checkpoint for one"
    )


def settle_statistics(encoder: nn.Module, source: ImageSource, image_size: int, images: int = 1024) -> None:
    """Set the running statistics of batch norm to those of some images: an untrained encoder has none of its own.

    Without them its features would be worse than its weights are, and the comparison unfair. The images go through at
    once, where the encoder stands.
    """
    chosen = np.linspace(0, len(source) - 1, min(images, len(source))).astype(np.int64)
    norms = [module for module in encoder.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    before = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    device = next(encoder.parameters()).device
    with torch.inference_mode():
        encoder.train()(PlainBatches(Subset(source, chosen), image_size, len(chosen))[0].images.to(device))
    encoder.eval()
    for norm, momentum in zip(norms, before, strict=True):
        norm.momentum = momentum


def raw_pixels(source: ImageSource, image_size: int, how: Extraction | None = None) -> Features:
    """The pixels themselves as features, shape (images, 3 * side * side), in 0..1."""
    return extract_features(nn.Flatten(), source, image_size, how) / np.float32(255)


def _gathered(part: Tensor, device: torch.device) -> list[Features]:
    """The block of every process; blocks may differ in length, and a process may have none."""
    shape = maximum([float(size) for size in part.shape], label="shapes of the features")
    rows, columns = (int(size) for size in shape)
    padded = torch.zeros(rows, columns, device=device)
    padded[: part.shape[0], : part.shape[1]] = part
    return list(gather_stacked(padded, label="features").cpu().numpy())


def folder_of_blocks(encoder: nn.Module, source: ImageSource, image_size: int, how: Extraction) -> Path | None:
    """Where the blocks of these features are kept, if anywhere; every process calls it.

    Raises:
        UserError: the images' file system does not answer.
    """
    return how.cache / features_digest(encoder, source, image_size, how) if how.cache else None


def remove_blocks(encoder: nn.Module, source: ImageSource, image_size: int, how: Extraction) -> None:
    """Remove the blocks of these features, and nothing else; process 0 alone calls it."""
    if folder := folder_of_blocks(encoder, source, image_size, how):
        for number in kept_blocks(folder, -(-len(source) // how.batch_images)):
            block_file(folder, number).unlink()
        with suppress(OSError):  # what is not ours stands there, too
            folder.rmdir()


def features_digest(encoder: nn.Module, source: ImageSource, image_size: int, how: Extraction) -> str:
    """32 hex digits of everything that moves a bit of the features, processes and threads aside.

    Every process calls it. Process 0 looks at the files: on another host a copy of theirs has other times.

    Raises:
        UserError: the images' file system does not answer.
    """
    pixels = [
        buffer.flatten().tolist()
        for name, buffer in encoder.named_buffers()
        if name.rpartition(".")[2] in ("mean", "std")
    ]
    contents = decided_by_first(lambda: contents_digest(source))
    facts = (
        state_digest([encoder]), structure_digest(encoder), pixels, contents, len(source), image_size, how.batch_images,
        how.device.type, torch.__version__, repr(pixel_rule_of(source)), *([how.autocast] if how.autocast else []),
        *(["broken images are NaN"] if how.leaves_out_broken else []),
    )  # fmt: skip
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:32]
