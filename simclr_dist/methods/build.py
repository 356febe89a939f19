"""From a recipe to its method, and to its encoder alone."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from simclr_dist.config import Recipe
from simclr_dist.config.registry import method_class
from simclr_dist.errors import UserError, first_line
from simclr_dist.methods.base import Method
from simclr_dist.methods.parts import Parts
from simclr_dist.models.batch_norm import GroupedBatchNorm
from simclr_dist.models.encoder import Encoder
from simclr_dist.models.statistics_group import StatisticsGroup

Module = TypeVar("Module", bound=nn.Module)


def build_method(
    recipe: Recipe, images: int, statistics: StatisticsGroup | None = None, recompute: str = "none"
) -> Method:
    """The method with its initial weights, which depend on recipe.seed alone; on the CPU, in float32.

    Args:
        recipe: what is computed.
        images: how many there are in the data set.
        statistics: how the recipe's batch-norm groups lie on the machine.
        recompute: machine.recompute.

    Raises:
        UserError: a method or an encoder from outside is not what it must be.
    """
    found: Any = method_class(recipe.method.name)
    if not issubclass(found, Method):
        raise UserError(f"recipe.method.name: '{recipe.method.name}' is not made from simclr_dist.methods.base.Method")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        method: Method = _built(recipe, lambda: found(recipe.method, Parts(recipe, statistics, recompute), images))
        if not isinstance(getattr(method, "encoder", None), Encoder):
            raise UserError(f"recipe.method.name: {recipe.method.name} sets no encoder; make it with make.encoder()")
        _check_features(recipe, method.encoder)
    return method


def build_encoder(recipe: Recipe) -> Encoder:
    """The recipe's encoder with initial weights of recipe.seed, without the method around it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        encoder = _built(recipe, Parts(recipe).encoder)
        _check_features(recipe, encoder)
    return encoder


def head_of(method: Method) -> nn.Module | None:
    """The module that its ``HEAD`` names; None where it has none."""
    try:
        return method.get_submodule(method.HEAD)
    except AttributeError:
        return None


def _built(recipe: Recipe, build: Callable[[], Module]) -> Module:
    try:
        module = build()
    except UserError:
        raise
    except Exception as error:  # whatever somebody's class does; one of this project is at fault itself
        if not (names := _outside(recipe)):
            raise
        raise UserError(
            f"{names}: cannot be built: {type(error).__name__}: {first_line(error)}; --debug shows where"
        ) from error
    for name, layer in module.named_modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and not isinstance(layer, GroupedBatchNorm):
            raise UserError(
                f"{_outside(recipe)}: {name} is torch's {type(layer).__name__}, whose statistics depend on the number "
                "of processes; make it with make.norm(features), or with the norm_layer that an encoder is given"
            )
    return module


def _outside(recipe: Recipe) -> str:
    return " and ".join(
        f"recipe.{key}.name={getattr(recipe, key).name}"
        for key in ("method", "encoder")
        if ":" in getattr(recipe, key).name
    )


def _check_features(recipe: Recipe, encoder: Encoder) -> None:
    """Refuse an encoder from outside that makes no features (rows, output_dim) of images of each size that it gets."""
    if ":" not in recipe.encoder.name:
        return
    size = recipe.data.image_size
    modes = [(module, module.training) for module in encoder.modules()]
    encoder.eval()
    for side in sorted({size, *method_class(recipe.method.name).sides(recipe)}):
        images = f"images (2, 3, {side}, {side})"
        try:
            with torch.no_grad():
                features = encoder(torch.zeros(2, 3, side, side, dtype=torch.uint8))
        except Exception as error:
            raise UserError(
                f"recipe.encoder.name: {recipe.encoder.name} fails on {images}: {type(error).__name__}: "
                f"{first_line(error)}; --debug shows where"
            ) from error
        shape = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
        if shape != (2, encoder.output_dim):
            raise UserError(
                f"recipe.encoder.name: {recipe.encoder.name} makes {shape} of {images}, not (2, {encoder.output_dim}), "
                "as its output_dim says"
            )
    for module, training in modes:
        module.training = training
