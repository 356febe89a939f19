"""An encoder written for another program, compared with ours before it stands under its name."""

import copy
import dataclasses
import hashlib
import json
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from simclr_dist import __version__
from simclr_dist.config.loading import to_dict
from simclr_dist.errors import UserError, first_line
from simclr_dist.storage.atomic import flush_folder
from simclr_dist.storage.paths import refuse_not_utf8
from simclr_dist.storage.temporary import remove_leftovers, temporary_name
from simclr_dist.weights.format import Format, reference_outputs
from simclr_dist.weights.formats import FORMATS
from simclr_dist.weights.loaded import LoadedEncoder
from simclr_dist.weights.read import FORMAT, sidecar_of

TOLERANCE = 1e-5
"""Largest difference of an output, as a share of the largest output or of 1, where float32's rounding allows it."""
_IMAGES = 3
_SAFETENSORS = ".safetensors"


@dataclass(frozen=True)
class Exported:
    """What was written."""

    path: Path
    sidecar: Path
    compared_with: str
    max_difference: float


def export(loaded: LoadedEncoder, to: str, out: Path | str, *, with_head: bool = False) -> Exported:
    """Write ``out`` in the format ``to`` and a JSON file beside it, after comparing its outputs with ours.

    Args:
        loaded: what is written; its projection head only ``with_head``.
        to: torchvision, timm, onnx or safetensors.
        out: a file that is not there yet.
        with_head: the head too.

    Raises:
        UserError: the file is there, cannot be written, has the ending of another format, its library is not
            installed, there is no head, or the outputs differ. Nothing stands under ``out`` then.
    """
    if to not in FORMATS:
        raise UserError(f"'{to}' is no format of an export; known are {', '.join(FORMATS)}")
    out = Path(out)
    form, sidecar = FORMATS[to], sidecar_of(out)
    for path in (out, sidecar):
        _refuse_existing(path)
    if form.utf8_paths_only:
        refuse_not_utf8(out, f"--to {to}")
    form.require()
    if (out.suffix == _SAFETENSORS) != form.suffix.endswith(_SAFETENSORS):
        ending = form.suffix if out.suffix == _SAFETENSORS else _SAFETENSORS
        raise UserError(f"{out}: by its name --to {to} could not be read back; give one that ends with {ending}")
    if with_head and loaded.projection is None:
        raise UserError(f"--with-head: {loaded.source} has no projection head; leave it out")
    loaded = loaded if with_head else dataclasses.replace(loaded, projection=None)
    form.check(loaded)
    description = describe(loaded, form)
    remove_leftovers(out.parent)
    # The suffix stays the last: libraries choose their reader by it.
    temporary, described = temporary_name(out, suffix_last=True), temporary_name(sidecar)
    try:
        form.write(temporary, loaded, description)
        difference = compare(form, temporary, loaded)
        description |= {"sha256": hashlib.sha256(temporary.read_bytes()).hexdigest()}
        description |= {"compared": {"with": form.library(), "images": _IMAGES, "max_difference": difference}}
        described.write_text(json.dumps(description, indent=1) + "\n")
        _publish(described, sidecar)
        try:
            _publish(temporary, out)
        except BaseException:
            sidecar.unlink(missing_ok=True)
            raise
        flush_folder(out.parent)
    except OSError as error:
        raise UserError(f"{out}: cannot be written: {error.strerror or first_line(error)}") from error
    finally:
        for leftover in (temporary, described):
            leftover.unlink(missing_ok=True)
    return Exported(out, sidecar, form.library(), difference)


def describe(loaded: LoadedEncoder, form: Format) -> dict[str, Any]:
    """What stands in the sidecar, and inside the file where its format has room."""
    # Of a model of timm the recipe says what it is, also where it knows nothing else.
    recipe = to_dict(loaded.recipe) if loaded.recipe_known or loaded.architecture is None else None
    if recipe is not None:
        # Locations on the machine that trained; exports are passed on.
        recipe["data"]["path"] = recipe["initial"]["weights"] = ""
    return {
        "format": FORMAT,
        "written_by": f"simclr_dist {__version__}",
        "source": loaded.source,
        "architecture": dataclasses.asdict(loaded.architecture) if loaded.architecture else None,
        "features": loaded.encoder.output_dim,
        "head": loaded.projection is not None,
        "image_size": loaded.image_size,
        "mean": loaded.mean,
        "std": loaded.std,
        "input": form.input(loaded),
        "load": form.lines(loaded),
        "assumed": list(loaded.assumed),
        "recipe": recipe,
        "recipe_known": loaded.recipe_known,
        "steps_done": loaded.steps_done,
    }


def compare(form: Format, file: Path, loaded: LoadedEncoder) -> float:
    """The largest difference between our outputs and those of the file, freshly loaded by its own library.

    Raises:
        UserError: it is more than ``TOLERANCE``, and more than twice our own float32 rounding.
    """
    size = (_IMAGES, 3, loaded.image_size, loaded.image_size)
    images = torch.randint(0, 256, size, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    ours, theirs = reference_outputs(loaded, images), form.outputs(file, loaded, images)
    # Another library adds in another order: where the network itself amplifies float32's rounding to more than the
    # tolerance, no file can be nearer to ours than ours is to the exact outputs, taken twice for the two roundings.
    exact = reference_outputs(_in_float64(loaded), images)
    largest = 0.0
    for expected, got, without_rounding in zip(ours, theirs, exact, strict=True):
        difference = float((expected - got).abs().max())
        own = float((expected - without_rounding).abs().max())
        # Written so that a NaN is refused.
        if not difference <= max(TOLERANCE * max(1.0, float(expected.abs().max())), 2 * own):
            raise UserError(
                f"the outputs of the file in {form.library()} differ from ours by {difference:.2g}; nothing was written"
            )
        largest = max(largest, difference)
    return largest


def _in_float64(loaded: LoadedEncoder) -> LoadedEncoder:
    head = copy.deepcopy(loaded.projection).double() if loaded.projection is not None else None
    return dataclasses.replace(loaded, encoder=copy.deepcopy(loaded.encoder).double(), projection=head)


def _refuse_existing(path: Path) -> None:
    if path.exists() or path.is_symlink():
        raise UserError(f"{path}: is there already and is not overwritten; give another name, or remove it")
    if not path.parent.is_dir():
        raise UserError(f"{path}: its folder is not there; make it, or give another name")


def _publish(written: Path, name: Path) -> None:
    """The whole file under its name, on the disk, unless that name was taken meanwhile."""
    with written.open("rb") as file:
        os.fsync(file.fileno())
    with suppress(PermissionError, NotImplementedError):
        try:
            os.link(written, name)  # fails when the name is taken, where a rename would replace it
        except FileExistsError:
            _refuse_existing(name)
        return
    _refuse_existing(name)  # a file system without hard links
    written.rename(name)
