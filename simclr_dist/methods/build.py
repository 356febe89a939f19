"""From a recipe to its method, and to its encoder alone."""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

from simclr_dist.config import Recipe
from simclr_dist.config.registry import method_class
from simclr_dist.errors import UserError
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
    found: type[Method] = method_class(recipe.method.name)  # type: ignore[assignment]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        method = _built(recipe, lambda: found(recipe.method, Parts(recipe, statistics, recompute), images))
    if not isinstance(getattr(method, "encoder", None), Encoder):
        raise UserError(f"recipe.method.name: {recipe.method.name} sets no encoder; make it with make.encoder()")
    return method


def build_encoder(recipe: Recipe) -> Encoder:
    """The recipe's encoder with initial weights of recipe.seed, without the method around it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        return _built(recipe, Parts(recipe).encoder)


def _built(recipe: Recipe, build: Callable[[], Module]) -> Module:
    outside = [key for key in ("method", "encoder") if ":" in getattr(recipe, key).name]
    try:
        module = build()
    except (ValueError, TypeError, AttributeError) as error:
        if not outside or isinstance(error, UserError):
            raise
        names = " and ".join(f"recipe.{key}.name" for key in outside)
        raise UserError(f"{names}: cannot be built: {type(error).__name__}: {error}; --debug shows where") from error
    for name, layer in module.named_modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and not isinstance(layer, GroupedBatchNorm):
            raise UserError(
                f"{recipe.method.name}: {name} is torch's {type(layer).__name__}, whose statistics depend on the "
                "number of processes; make it with make.norm(features), or with the norm_layer that an encoder is given"
            )
    return module
