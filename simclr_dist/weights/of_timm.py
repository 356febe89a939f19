"""A file of timm's: the weights of one of its models, whose name stands beside them or is given."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from simclr_dist.config import Recipe
from simclr_dist.config.recipe import TIMM, Data
from simclr_dist.config.recipe import Encoder as EncoderKeys
from simclr_dist.errors import UserError, first_line
from simclr_dist.methods.build import build_encoder
from simclr_dist.models.timm_check import check_recipe
from simclr_dist.weights.architecture import missing_keys, other_shape
from simclr_dist.weights.layouts import first_copies, several_networks
from simclr_dist.weights.loaded import LoadedEncoder

_SHOWN = 3
_CONFIG = "config.json"  # what timm's models on the Hugging Face hub have beside their weights


def timm_model(path: Path, name: str | None, options: Mapping[str, Any]) -> EncoderKeys | None:
    """Which model of timm a file is said to hold, by ``name`` (timm/NAME) or by the config.json beside it.

    Raises:
        UserError: the name is of another form, or the options are without one.
    """
    if name is not None:
        if not name.startswith(TIMM) or name == TIMM:
            raise UserError(f"--encoder: '{name}' is not timm/NAME, such as timm/convnext_tiny")
        return EncoderKeys(name=name, options=dict(options))
    beside = path.with_name(_CONFIG)
    try:
        known: Any = json.loads(beside.read_text()) if beside.is_file() else {}
    except (OSError, ValueError, RecursionError):
        known = {}
    found = known.get("architecture") if isinstance(known, dict) else None
    if isinstance(found, str):
        own = known.get("model_args")
        return EncoderKeys(name=f"{TIMM}{found}", options={**(own if isinstance(own, dict) else {}), **options})
    if options:
        raise UserError("--option: is of the model that --encoder timm/NAME names; give that, too")
    return None


def load_timm(
    path: Path,
    tensors: Mapping[str, Tensor],
    keys: EncoderKeys,
    *,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    image_size: int | None,
    prefix: str | None,
) -> LoadedEncoder:
    """The encoder of weights under timm's names; those of the classifier are left out.

    Raises:
        UserError: there is no such model, the weights are not its (the first keys are named), or there are several
            networks (their prefixes are).
    """
    import timm

    known: dict[str, Any] = getattr(timm.get_pretrained_cfg(keys.of_timm, allow_unregistered=False), "to_dict", dict)()
    assumed = []
    if mean is None or std is None:
        mean, std = mean or known.get("mean", (0.485, 0.456, 0.406)), std or known.get("std", (0.229, 0.224, 0.225))
        assumed.append(f"pixels normalised as timm's {keys.of_timm} (else --mean, --std)")
    if image_size is None:
        image_size = int(keys.options.get("img_size") or known.get("input_size", (3, 224, 224))[-1])
        assumed.append(f"images of {image_size} pixels (else --image-size)")
    assert mean is not None
    assert std is not None
    recipe = Recipe(data=Data(image_size=image_size, mean=list(mean), std=list(std)), encoder=keys)
    try:
        check_recipe(recipe)
        encoder = build_encoder(recipe)
        expected = encoder.backbone.state_dict()
        state = _below(tensors, prefix, expected)
        _refuse_misfit(keys.name, state, expected)
        encoder.backbone.load_state_dict({key: state.get(key, tensor) for key, tensor in expected.items()})
    except (UserError, RuntimeError) as error:
        raise UserError(f"{path}: {first_line(error)}") from error
    return LoadedEncoder(
        encoder=encoder.requires_grad_().eval().float(),
        recipe=recipe,
        source=f"{path.name} (timm)",
        recipe_known=False,
        assumed=tuple(assumed),
    )


def _below(tensors: Mapping[str, Tensor], prefix: str | None, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of the model, whatever stands before their names.

    Raises:
        UserError: there are several such models, and ``prefix`` does not choose.
    """
    before = _found_prefix(tensors, expected) if prefix is None else f"{prefix.removesuffix('.')}." if prefix else ""
    return {key.removeprefix(before): tensor for key, tensor in tensors.items() if key.startswith(before)}


def _found_prefix(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str:
    first = next(iter(expected))
    begins = [key.removesuffix(first) for key in tensors if key == first or key.endswith(f".{first}")]
    # A name may also stand deeper in the same model (conv1.weight in each block): the whole ones count.
    whole = [
        begin
        for begin in begins
        if not missing_keys({key: tensors[begin + key] for key in expected if begin + key in tensors}, expected)
    ]
    trained = first_copies(whole)
    if len(trained) > 1:
        raise UserError(several_networks(trained))
    return trained[0] if trained else min(begins, key=lambda begin: (len(begin), begin), default="")


def _refuse_misfit(name: str, state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    if missing := missing_keys(state, expected):
        raise UserError(f"is not of {name}, as {_first(missing)} missing; give --encoder (and --option) of its model")
    if other := other_shape(state, expected, name):
        raise UserError(f"{other}; give what it was made with as --option KEY=VALUE")
    stages = {key.partition(".")[0] for key in expected} - {"head"}
    odd = [key for key in state if key not in expected and key.partition(".")[0] in stages]
    if odd:
        raise UserError(f"has more than {name}: {_first(odd)} no part of it; give --encoder of its model")


def _first(keys: Sequence[str]) -> str:
    more = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
    return f"{', '.join(keys[:_SHOWN])}{more} {'is' if len(keys) == 1 else 'are'}"
