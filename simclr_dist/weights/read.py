"""One way to an encoder, whatever holds it: a run, a checkpoint, an export, another project's file."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from simclr_dist.config import Recipe
from simclr_dist.config.filling import method_name
from simclr_dist.config.loading import recipe_from_dict
from simclr_dist.config.registry import method_class
from simclr_dist.distributed.collectives import process_rank
from simclr_dist.errors import UserError, first_line
from simclr_dist.log import log
from simclr_dist.methods.build import build_encoder as initial_encoder
from simclr_dist.methods.build import build_method, head_of
from simclr_dist.run import checkpoint
from simclr_dist.storage.reading import cannot_be_read
from simclr_dist.weights.architecture import Architecture, build_encoder
from simclr_dist.weights.descriptions import wrong_in
from simclr_dist.weights.foreign import identify, read_safetensors, read_tensors
from simclr_dist.weights.loaded import LoadedEncoder, recipe_of_encoder
from simclr_dist.weights.of_timm import load_timm, timm_model
from simclr_dist.weights.saved import SavedState, saved_state

HEAD = "projection."
"""Before the names of a head's tensors in our own exports; in a checkpoint stands the method's ``HEAD``."""
METADATA_KEY = "simclr_dist"
FORMAT = 1
_IMAGE_SIZES = {"imagenet": 224, "small": 32}


def load_encoder(
    path: Path | str,
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    image_size: int | None = None,
    stem_padding: int | None = None,
    prefix: str | None = None,
    encoder: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> LoadedEncoder:
    """The encoder of a run folder (its newest intact checkpoint), a checkpoint, an export, or a foreign file.

    Only data is read, no code of a file runs; a method or an encoder from outside this project that a run names is
    imported from where Python finds it. The other arguments say what a foreign file cannot: normalisation,
    image size, padding of the first convolution, the ``prefix`` of the names when a file holds several networks, and
    which model of timm it is (``encoder``, as recipe.encoder.name, with its ``options``).

    Raises:
        UserError: there is no such encoder; the line says what is nearest and what is missing.
    """
    path = Path(path)
    hints = {
        "mean": mean, "std": std, "image_size": image_size, "stem_padding": stem_padding, "prefix": prefix,
        "encoder": encoder, "options": options or None,
    }  # fmt: skip
    given = [key for key, value in hints.items() if value is not None]
    if path.is_dir() or checkpoint.is_checkpoint(path):
        _refuse_hints(path, given)
        return _from_saved(saved_state(path))
    if not path.exists():
        raise UserError(f"{path}: no such file or run folder")
    known = description_of(path)
    tensors = read_tensors(path)
    if known is not None:
        _refuse_hints(path, given)
        return _from_export(path, tensors, known)
    if timm := timm_model(path, encoder, options or {}):
        if stem_padding is not None:
            raise UserError(f"--stem-padding: is for ResNets, and {path.name} is taken as {timm.name}; leave it out")
        return load_timm(path, tensors, timm, mean=mean, std=std, image_size=image_size, prefix=prefix)
    foreign = identify(path, tensors, prefix)
    architecture = foreign.architecture
    if stem_padding is not None:
        architecture = replace(architecture, stem_padding=stem_padding)
    answered = {"pixels": mean is not None and std is not None, "padding": stem_padding is not None}
    assumed = [line for line in foreign.assumed if not answered.get(line.partition(" ")[0])]
    if image_size is None:
        image_size = _IMAGE_SIZES[architecture.stem]
        assumed.append(f"images of {image_size} pixels (else --image-size)")
    return LoadedEncoder(
        encoder=build_encoder(architecture, foreign.state, mean or foreign.mean, std or foreign.std),
        recipe=recipe_of_encoder(architecture, mean or foreign.mean, std or foreign.std, image_size),
        source=f"{path.name} ({foreign.project})",
        architecture=architecture,
        recipe_known=False,
        assumed=tuple(assumed),
    )


def _from_saved(saved: SavedState) -> LoadedEncoder:
    path, state = saved.path, saved.state
    if saved.remark and process_rank() == 0:
        log.warning("%s: %s", path.parent, saved.remark)
    recipe = recipe_from_dict(state["recipe"])
    encoder = initial_encoder(recipe)
    try:
        encoder.load_state_dict(_below(state["model"], "encoder."))
    except RuntimeError as error:
        raise UserError(f"{path}: its weights are not those of its recipe: {first_line(error)}") from error
    return LoadedEncoder(
        encoder=encoder.eval().float(),
        recipe=recipe,
        source=saved.source,
        architecture=Architecture.of_recipe(recipe),
        projection=_projection(recipe, _below(state["model"], f"{method_class(recipe.method.name).HEAD}.")),
        steps_done=saved.steps_done,
        not_the_newest=saved.remark,
    )


def _below(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): tensor for key, tensor in state.items() if key.startswith(prefix)}


def _projection(recipe: Recipe, state: Mapping[str, Tensor]) -> nn.Module | None:
    """The method's ``HEAD`` with its weights; None when there are none."""
    if not state:
        return None
    with torch.device("meta"):  # nothing else of the method is needed, and a bank of every image may be in it
        head = head_of(build_method(recipe, 1))
    if head is None:
        return None
    # Copies, as those of an encoder: torch's own memory begins where products round the same.
    head.load_state_dict({key: tensor.clone() for key, tensor in state.items()}, assign=True)
    return head.requires_grad_().eval().float()


def description_of(path: Path) -> dict[str, Any] | None:
    """What an export says of itself: inside where the format has room, else in the sidecar beside it.

    Raises:
        UserError: it cannot be read, is of a wrong form, or was written by a newer version of this project.
    """
    known: Any
    if path.suffix == ".safetensors":
        metadata = read_safetensors(path)[1]
        if METADATA_KEY not in metadata:
            return None
        try:
            known = json.loads(metadata[METADATA_KEY])
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}: its description is no JSON: {first_line(error)}; export it again") from error
    elif (sidecar := sidecar_of(path)).exists():
        try:
            known, content = json.loads(sidecar.read_bytes()), path.read_bytes()
        except OSError as error:
            raise cannot_be_read(Path(error.filename or sidecar), error) from error
        except (ValueError, RecursionError) as error:
            raise UserError(f"{sidecar}: is no JSON; remove it to take {path.name} as a foreign file") from error
        # A sidecar left behind beside another file describes nothing.
        if not isinstance(known, dict) or known.get("sha256") != hashlib.sha256(content).hexdigest():
            return None
    else:
        return None
    if wrong := wrong_in(known):
        raise UserError(f"{path}: its description is of a wrong form ({wrong}); export it again")
    if known["format"] > FORMAT:
        raise UserError(f"{path}: written by a newer simclr_dist (format {known['format']}); update to read it")
    return dict(known)


def sidecar_of(path: Path) -> Path:
    """The JSON file beside an export."""
    return path.with_name(f"{path.name}.json")


def _from_export(path: Path, tensors: Mapping[str, Tensor], known: dict[str, Any]) -> LoadedEncoder:
    try:
        architecture = Architecture(**known["architecture"]) if known["architecture"] else None
        recipe, recipe_known = _recipe_of_export(known, architecture)
        head = _below(tensors, HEAD) if known["head"] else {}
        if architecture is None:
            encoder = initial_encoder(recipe)
            own = {key: tensor for key, tensor in tensors.items() if not (head and key.startswith(HEAD))}
            encoder.backbone.load_state_dict(own)
            encoder = encoder.eval().float()
        else:
            backbone = {key: value for key, value in tensors.items() if not key.startswith((HEAD, "fc."))}
            encoder = build_encoder(architecture, backbone, known["mean"], known["std"])
        return LoadedEncoder(
            encoder=encoder,
            recipe=recipe,
            source=str(known["source"]),
            architecture=architecture,
            projection=_projection(recipe, head) if recipe_known else None,
            steps_done=known["steps_done"],
            recipe_known=recipe_known,
            assumed=tuple(known["assumed"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError, AssertionError, OverflowError, RuntimeError) as error:
        if isinstance(error, UserError):
            raise UserError(f"{path}: {error}") from error
        raise UserError(f"{path}: its description and its weights do not fit: {first_line(error)}") from error


def _recipe_of_export(known: dict[str, Any], architecture: Architecture | None) -> tuple[Recipe, bool]:
    """The recipe of the training, and True; where it is not known, or its method is of a package that is not here, one
    of the encoder alone."""
    stored = known["recipe"]
    if stored is not None:
        try:
            return recipe_from_dict(stored), bool(known.get("recipe_known", True))
        except UserError:
            # A ResNet needs nothing of a method from outside, which whoever was given the file may not have.
            if architecture is None or ":" not in method_name(stored):
                raise
    assert architecture is not None
    return recipe_of_encoder(architecture, known["mean"], known["std"], int(known["image_size"])), False


def _refuse_hints(path: Path, given: list[str]) -> None:
    if given:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise UserError(f"{path}: says by itself what {options} would; leave that out")
