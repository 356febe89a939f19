"""One way to an encoder, whatever holds it: a run, a checkpoint, an export, another project's file."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from simclr_dist.config import Recipe
from simclr_dist.config.loading import recipe_from_dict
from simclr_dist.config.recipe import Data
from simclr_dist.config.recipe import Encoder as EncoderKeys
from simclr_dist.errors import UserError
from simclr_dist.methods.build import build_encoder as initial_encoder
from simclr_dist.methods.build import build_method
from simclr_dist.models.encoder import Encoder
from simclr_dist.run import checkpoint
from simclr_dist.weights.architecture import Architecture, build_encoder
from simclr_dist.weights.foreign import identify, read_safetensors, read_tensors

METADATA_KEY = "simclr_dist"
FORMAT = 1
_IMAGE_SIZES = {"imagenet": 224, "small": 32}


@dataclass(frozen=True)
class LoadedEncoder:
    """An encoder and what is known of it."""

    encoder: Encoder
    """In evaluation mode, float32, on the CPU: uint8 (images, 3, height, width) to features (images, output_dim).
    ``encoder.mean`` and ``encoder.std`` normalise the pixels in 0..1."""
    architecture: Architecture
    image_size: int
    """Side in pixels that it was trained for."""
    source: str
    """Where it comes from, for people."""
    projection: nn.Module | None = None
    """The projection head, where the file has it: features to embeddings (images, d)."""
    recipe: Recipe | None = None
    steps_done: int | None = None
    assumed: tuple[str, ...] = ()
    """What a foreign file does not say and was taken for granted."""

    @property
    def mean(self) -> list[float]:
        """Of the three channels, pixels in 0..1."""
        return [float(number) for number in self.encoder.mean.flatten()]

    @property
    def std(self) -> list[float]:
        """Of the three channels, pixels in 0..1."""
        return [float(number) for number in self.encoder.std.flatten()]

    @property
    def known_recipe(self) -> Recipe:
        """``recipe``; of a foreign file one that knows the encoder, the image size and the normalisation alone."""
        known = self.architecture
        return self.recipe or Recipe(
            data=Data(image_size=self.image_size, mean=self.mean, std=self.std),
            encoder=EncoderKeys(name=known.name, width=known.width, stem=known.stem),
        )


def load_encoder(
    path: Path,
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    image_size: int | None = None,
    stem_padding: int | None = None,
    prefix: str | None = None,
) -> LoadedEncoder:
    """The encoder of a run folder (its newest intact checkpoint), a checkpoint, an export, or a foreign file.

    Only data is read, no code of a file runs. The other arguments say what a foreign file cannot: normalisation,
    image size, padding of the first convolution, and the ``prefix`` of the names when a file holds several networks.

    Raises:
        UserError: there is no such encoder; the line says what is nearest and what is missing.
    """
    hints = {"mean": mean, "std": std, "image_size": image_size, "stem_padding": stem_padding, "prefix": prefix}
    given = [key for key, value in hints.items() if value is not None]
    if path.is_dir() or checkpoint.is_checkpoint(path):
        _refuse_hints(path, given)
        return load_run(path) if path.is_dir() else _from_checkpoint(path)
    if not path.exists():
        raise UserError(f"{path}: no such file or run folder")
    known = description_of(path)
    tensors = read_tensors(path)
    if known is not None:
        _refuse_hints(path, given)
        return _from_export(path, tensors, known)
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
        architecture=architecture,
        image_size=image_size,
        source=f"{path.name} ({foreign.project})",
        assumed=tuple(assumed),
    )


def load_run(run_dir: Path) -> LoadedEncoder:
    """The encoder of a run's newest intact checkpoint; ``recipe`` and ``steps_done`` are there.

    Raises:
        UserError: there is no intact checkpoint.
    """
    path, complaints = checkpoint.newest_intact(run_dir / "checkpoints")
    if path is None:
        reason = f": {'; '.join(complaints)}" if complaints else "; give the run_dir of a pretraining run"
        raise UserError(f"{run_dir}: no checkpoint to evaluate{reason}")
    return _from_checkpoint(path, run_dir.resolve().name)


def _from_checkpoint(path: Path, run: str = "") -> LoadedEncoder:
    try:
        state: dict[str, Any] = checkpoint.load(path)
    except checkpoint.DamagedCheckpointError as error:
        raise UserError(f"{path}: {error}") from error
    recipe = recipe_from_dict(state["recipe"])
    encoder = initial_encoder(recipe)
    encoder.load_state_dict(_below(state["model"], "encoder."))
    steps_done = int(state["step"])
    return LoadedEncoder(
        encoder=encoder.eval().float(),
        architecture=Architecture.of_recipe(recipe),
        image_size=recipe.data.image_size,
        source=f"{run or path.name}, step {steps_done}",
        projection=_projection(recipe, _below(state["model"], "projection.")),
        recipe=recipe,
        steps_done=steps_done,
    )


def _below(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): tensor for key, tensor in state.items() if key.startswith(prefix)}


def _projection(recipe: Recipe, state: Mapping[str, Tensor]) -> nn.Module | None:
    """The method's head named ``projection`` with its weights; None when it has none."""
    with torch.device("meta"):  # nothing else of the method is needed, and a bank of every image may be in it
        head = getattr(build_method(recipe, 1), "projection", None)
    if not isinstance(head, nn.Module) or not state:
        return None
    # Copies, as those of an encoder: torch's own memory begins where products round the same.
    head.load_state_dict({key: tensor.clone() for key, tensor in state.items()}, assign=True)
    return head.requires_grad_().eval().float()


def description_of(path: Path) -> dict[str, Any] | None:
    """What an export says of itself: inside where the format has room, else in the sidecar beside it.

    Raises:
        UserError: written by a newer version of this project, or the sidecar is damaged.
    """
    known: dict[str, Any] | None = None
    if path.suffix == ".safetensors":
        metadata = read_safetensors(path)[1]
        known = json.loads(metadata[METADATA_KEY]) if METADATA_KEY in metadata else None
    elif (sidecar := sidecar_of(path)).exists():
        try:
            known = json.loads(sidecar.read_bytes())
        except (OSError, ValueError) as error:
            raise UserError(f"{sidecar}: cannot be read; remove it to take {path.name} as a foreign file") from error
        # A sidecar left behind beside another file describes nothing.
        if not isinstance(known, dict) or known.get("sha256") != hashlib.sha256(path.read_bytes()).hexdigest():
            return None
    if known is not None and known.get("format", 0) > FORMAT:
        raise UserError(f"{path}: written by a newer simclr_dist (format {known['format']}); update to read it")
    return known


def sidecar_of(path: Path) -> Path:
    """The JSON file beside an export."""
    return path.with_name(f"{path.name}.json")


def _from_export(path: Path, tensors: Mapping[str, Tensor], known: dict[str, Any]) -> LoadedEncoder:
    try:
        architecture = Architecture(**known["architecture"])
        backbone = {key: value for key, value in tensors.items() if not key.startswith(("projection.", "fc."))}
        encoder = build_encoder(architecture, backbone, known["mean"], known["std"])
        recipe = recipe_from_dict(known["recipe"]) if known["recipe"] else None
        head = {key.removeprefix("projection."): tensors[key] for key in tensors if key.startswith("projection.")}
        projection = None
        if head and recipe is not None:
            projection = _projection(recipe, head)
        return LoadedEncoder(
            encoder=encoder,
            architecture=architecture,
            image_size=int(known["image_size"]),
            source=str(known["source"]),
            projection=projection,
            recipe=recipe,
            steps_done=known["steps_done"],
            assumed=tuple(known["assumed"]),
        )
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: its description and its weights do not fit: {error}") from error


def _refuse_hints(path: Path, given: list[str]) -> None:
    if given:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise UserError(f"{path}: says by itself what {options} would; leave that out")
