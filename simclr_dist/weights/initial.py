"""What ``recipe.initial`` names: read, known by its digest, and put into a method and its optimizer.

The digest is of tensors under this project's names, so that the same weights are the same whatever file holds them
(docs/design/initial_weights.md).
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from simclr_dist.config import Recipe
from simclr_dist.config.filling import method_name
from simclr_dist.config.initial import ALL, KEPT
from simclr_dist.config.loading import recipe_from_dict
from simclr_dist.errors import UserError
from simclr_dist.methods.base import Method
from simclr_dist.models.encoder import Encoder
from simclr_dist.run import checkpoint
from simclr_dist.storage.paths import expanded
from simclr_dist.weights.architecture import Architecture
from simclr_dist.weights.digest import tensors_digest
from simclr_dist.weights.loaded import LoadedEncoder
from simclr_dist.weights.read import load_encoder
from simclr_dist.weights.saved import saved_state

_KEY = "recipe.initial"
_SHOWN = 3


@dataclass(frozen=True, kw_only=True)
class InitialState:
    """Weights that a run begins with."""

    source: str
    """Where they come from, for people."""
    tensors: Mapping[str, Tensor]
    """Of the encoder, or of the whole method."""
    sha256: str
    remarks: tuple[str, ...] = ()
    """What differs from the recipe without being refused."""
    optimizer: dict[str, Any] = field(default_factory=dict)
    """Its state dict; {} when it starts anew."""
    architecture: Architecture | None = None
    """Of the encoder, where it is a ResNet of this project."""
    batch_images: int = 0
    """Of a global batch of the run that made all of a method; 0: the encoder's alone."""
    images: dict[str, Any] = field(default_factory=dict)
    """What that run's checkpoint says of its images."""


def read_initial(recipe: Recipe) -> InitialState:
    """What ``recipe.initial`` names.

    Raises:
        UserError: naming the key: it is not there, cannot be read, or holds no such state.
    """
    path = expanded(f"{_KEY}.weights", recipe.initial.weights)
    try:
        return _all_of(path, recipe) if recipe.initial.what == ALL else _encoder_of(path, recipe)
    except UserError as error:
        raise UserError(f"{_KEY}.weights: {error}") from error


def put_into(method: Method, optimizer: Optimizer, initial: InitialState, recipe: Recipe) -> None:
    """Give a method as it was built the initial weights, and its optimizer its state where that is kept.

    Other encoders of the same tensors (teachers, the keys' encoder) begin as the method's does.

    Raises:
        UserError: names or shapes are others; the first are named.
    """
    if recipe.initial.what == ALL:
        _refuse_misfit(initial, method.state_dict(), recipe)
        method.load_state_dict(initial.tensors)
    else:
        _refuse_misfit(initial, method.encoder.state_dict(), recipe)
        for encoder in (each for each in method.modules() if isinstance(each, Encoder)):
            if _shapes(encoder) == _shapes(method.encoder):
                encoder.load_state_dict(initial.tensors)
    if initial.optimizer:
        own = optimizer.state_dict()
        groups, saved = ([len(group["params"]) for group in each["param_groups"]] for each in (own, initial.optimizer))
        if groups != saved:
            raise UserError(
                f"{_KEY}.optimizer: {initial.source} has an optimizer over other parameters; set {_KEY}.optimizer=fresh"
            )
        # Rates, momentum and decay are this recipe's.
        optimizer.load_state_dict({**own, "state": initial.optimizer["state"]})


def _encoder_of(path: Path, recipe: Recipe) -> InitialState:
    loaded = load_encoder(path)
    tensors = loaded.encoder.state_dict()
    return InitialState(
        source=loaded.source,
        tensors=tensors,
        sha256=tensors_digest(tensors.items()),
        remarks=tuple(_remarks(loaded, recipe)),
        architecture=loaded.architecture,
    )


def _all_of(path: Path, recipe: Recipe) -> InitialState:
    if not path.exists():
        raise UserError(f"{path}: no such file or run folder")
    if not (path.is_dir() or checkpoint.is_checkpoint(path)):
        raise UserError(f"{path}: has an encoder alone, or is no run's; {_KEY}.what=all takes a run or its checkpoint")
    saved = saved_state(path)
    other, name = method_name(saved.state["recipe"]), recipe.method.name
    if other != name:
        raise UserError(
            f"{saved.source} is of the method {other}, and recipe.method.name is {name}; {_KEY}.what=encoder takes its "
            "encoder alone"
        )
    there = recipe_from_dict(saved.state["recipe"])
    optimizer: dict[str, Any] = {}
    if recipe.initial.optimizer == KEPT:
        if there.optimizer.name != recipe.optimizer.name:
            raise UserError(
                f"{saved.source} has the state of {there.optimizer.name}, and recipe.optimizer.name is "
                f"{recipe.optimizer.name}; set {_KEY}.optimizer=fresh"
            )
        optimizer = saved.state.get("optimizer", {})
    tensors = saved.state["model"]
    return InitialState(
        source=saved.source,
        tensors=tensors,
        sha256=tensors_digest([*tensors.items(), *_tensors_in(optimizer.get("state", {}), "optimizer")]),
        remarks=tuple(_of_pixels(saved.source, there.data.mean, there.data.std, recipe)),
        optimizer=optimizer,
        architecture=Architecture.of_recipe(there),
        batch_images=there.global_batch_images,
        images=saved.state.get("images", {}),
    )


def _tensors_in(node: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(node, Tensor):
        yield name, node
    elif isinstance(node, Mapping):
        for key, value in node.items():
            yield from _tensors_in(value, f"{name}.{key}")


def _remarks(loaded: LoadedEncoder, recipe: Recipe) -> Iterator[str]:
    yield from _of_pixels(loaded.source, loaded.mean, loaded.std, recipe, known=loaded.recipe_known)
    there, here = loaded.architecture, Architecture.of_recipe(recipe)
    if there and here and there.takes != here.takes:
        yield (
            f"{loaded.source} takes {there.takes} of an image and an encoder here {here.takes}: the run begins with "
            "other features than those weights gave"
        )
    if there and here and there.stem == here.stem and there.stem_padding != here.stem_padding:
        yield (
            f"{loaded.source} has padding {there.stem_padding} in its first convolution and an encoder here "
            f"{here.stem_padding}: at the edge of an image it begins with other features"
        )


def _of_pixels(
    source: str, mean: list[float], std: list[float], recipe: Recipe, *, known: bool = True
) -> Iterator[str]:
    here = [*recipe.data.mean, *recipe.data.std]
    if not all(math.isclose(a, b, abs_tol=1e-4) for a, b in zip((*mean, *std), here, strict=True)):
        granted = "" if known else " (as is taken for granted)"
        yield (
            f"{source} was trained{granted} with pixels of mean {_three(mean)} and std {_three(std)}, and "
            f"recipe.data has mean {_three(recipe.data.mean)} and std {_three(recipe.data.std)}: the run begins with "
            "other features than those weights gave, unless they are set alike"
        )


def _three(numbers: list[float]) -> str:
    return f"[{', '.join(f'{number:.4g}' for number in numbers)}]"


def _shapes(network: nn.Module) -> dict[str, tuple[int, ...]]:
    return {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()}


def _refuse_misfit(initial: InitialState, here: Mapping[str, Tensor], recipe: Recipe) -> None:
    """Raise a UserError that names the first keys where ``here`` has others, or others of that name."""
    there = initial.tensors
    wrong = [f"{key} is missing there" for key in here if key not in there]
    wrong += [f"{key} has no place here" for key in there if key not in here]
    wrong += [
        f"{key} is {tuple(there[key].shape)} there and {tuple(tensor.shape)} here"
        for key, tensor in here.items()
        if key in there and there[key].shape != tensor.shape
    ]
    if wrong:
        more = f", and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
        raise UserError(
            f"{_KEY}.weights: {initial.source} does not fit: {'; '.join(wrong[:_SHOWN])}{more}; "
            f"{_cure(initial, recipe)}"
        )


def _cure(initial: InitialState, recipe: Recipe) -> str:
    there, here = initial.architecture, Architecture.of_recipe(recipe)
    if there is None or here is None or there == here:
        alone = f"; {_KEY}.what=encoder takes the encoder alone" if recipe.initial.what == ALL else ""
        return f"give the recipe the sizes of those weights, or other weights{alone}"
    pairs = {key: (getattr(there, key), getattr(here, key)) for key in ("name", "width", "stem")}
    cure = " ".join(f"recipe.encoder.{key}={_plain(wanted)}" for key, (wanted, own) in pairs.items() if wanted != own)
    cure = f"it is a {there}, and recipe.encoder a {here}: set {cure}"
    if there.stem == here.stem:
        return cure
    if there.stem == "imagenet":
        return f"{cure}, whose 7x7 convolution and max-pool want larger images (recipe.data.image_size)"
    return f"{cure}, whose 3x3 convolution without max-pool is for small images (16 times the work at the same size)"


def _plain(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:g}"
