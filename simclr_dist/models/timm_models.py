"""timm's models by the names and options of a recipe."""

import importlib.util
import re
import warnings
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import torch
from torch import nn
from torch._guards import detect_fake_mode
from torch.utils._python_dispatch import _disable_current_modes

from simclr_dist.errors import UserError, first_line, nearest

_KEY = "recipe.encoder"
_NOT_OPTIONS = {
    "pretrained": "weights are given by recipe.initial.weights",
    "checkpoint_path": "weights are given by recipe.initial.weights",
    "num_classes": "an encoder has no classifier",
    "in_chans": "images have three channels here",
    "features_only": "the recipe's method takes what it needs",
    **dict.fromkeys(
        (
            "pretrained_cfg",
            "pretrained_cfg_overlay",
            "pretrained_strict",
            "cache_dir",
            "scriptable",
            "exportable",
            "no_jit",
        ),
        "it is no part of what is computed",
    ),
}
_UNEXPECTED = re.compile(r"unexpected keyword argument '(\w+)'")


def timm_module() -> ModuleType:
    """timm.

    Raises:
        UserError: it is not installed.
    """
    if importlib.util.find_spec("timm") is None:
        raise UserError(f"{_KEY}.name: timm is not installed; pip install 'simclr_dist[timm]'")
    import timm

    return timm


def create(name: str, options: Mapping[str, Any]) -> nn.Module:
    """timm's model with random weights and no classifier.

    Raises:
        UserError: timm is not installed, has no such model, or the model takes no such options.
    """
    timm = timm_module()
    if not timm.is_model(name) or ":" in name:
        close = nearest(name, timm.list_models())
        raise UserError(
            f"{_KEY}.name: timm {timm.__version__} has no model '{name}'{close}; timm.list_models() has all"
        )
    for key in options:
        if key in _NOT_OPTIONS:
            raise UserError(f"{_KEY}.options.{key}: {_NOT_OPTIONS[key]}; leave it out")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of names that timm has changed
            model = _made(lambda: timm.create_model(name, pretrained=False, num_classes=0, **options))
    except Exception as error:  # whatever a model does with options that it does not take
        raise UserError(_why_not_made(name, options, error)) from error
    return model


def _made(make: Callable[[], nn.Module]) -> nn.Module:
    """The model; among fake tensors (``plan``) one of fake tensors, too.

    timm asks tensors for their values while it makes a model (rates by block), and a fake one has none. So the model is
    made without data, where those few are true ones, and gets its fake tensors afterwards.
    """
    if detect_fake_mode() is None:
        return _with_values_where_asked(make)
    with _disable_current_modes(), torch.device("meta"):
        model = _with_values_where_asked(make)
    for module in model.modules():
        for key, parameter in module._parameters.items():
            if parameter is not None:
                empty = torch.empty(parameter.shape, dtype=parameter.dtype)
                module._parameters[key] = nn.Parameter(empty, requires_grad=parameter.requires_grad)
        for key, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[key] = torch.empty(buffer.shape, dtype=buffer.dtype)
    return model


def _with_values_where_asked(make: Callable[[], nn.Module]) -> nn.Module:
    """On the default device; by way of the CPU where that is torch's meta device and timm asks tensors for their values
    (earlier releases do, for a RegNet's widths)."""
    try:
        return make()
    except NotImplementedError:
        if torch.get_default_device().type != "meta":
            raise
    with torch.device("cpu"):
        return make().to("meta")


def _why_not_made(name: str, options: Mapping[str, Any], error: Exception) -> str:
    found = _UNEXPECTED.search(str(error))
    if found and found[1] in options:
        return f"{_KEY}.options.{found[1]}: timm/{name} takes no such option{nearest(found[1], _options_of(name))}"
    given = ", ".join(f"{key}: {value}" for key, value in options.items())
    return f"{_KEY}.options: timm/{name} cannot be made with {{{given}}}: {type(error).__name__}: {first_line(error)}"


def _options_of(name: str) -> list[str]:
    """What the class of a model takes, by its own signature."""
    import inspect

    from timm import create_model

    with torch.device("meta"):
        made = type(_with_values_where_asked(lambda: create_model(name, pretrained=False, num_classes=0)))
    return [
        each for each in inspect.signature(made.__init__).parameters if each not in ("self", "kwargs", *_NOT_OPTIONS)
    ]
