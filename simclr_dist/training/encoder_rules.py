"""Whether a model of timm makes of an image what it would make of it on any number of processes.

Which of its layers draw or look at other images no list can know: two passes over noise tell, before the first step.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from simclr_dist.config import Recipe
from simclr_dist.config.registry import method_class
from simclr_dist.data.loading.batch import Batch, blank_batch
from simclr_dist.errors import AgreedError
from simclr_dist.models.batch_norm import norms_of
from simclr_dist.models.drops import drawing
from simclr_dist.models.features import evaluating
from simclr_dist.models.timm_encoder import TimmEncoder

_TOLERANCE = 1e-3
"""Of a row's largest number: rounding is far below, another mask or another image in it far above."""
_DRAWS = (
    "draws by torch's own generator, which every process has for itself, so what it drops would depend on their "
    "number; set its rate to 0 in recipe.encoder.options"
)
_MEETS = (
    "makes something else of an image when another one stands beside it, so the number of processes would change the "
    "features; take another model, or norm_layer in recipe.encoder.options"
)


def check_encoder(encoder: nn.Module, recipe: Recipe) -> None:
    """Refuse a model of timm whose features depend on how images are divided; others are not looked at.

    Raises:
        AgreedError: naming the layer and what it does.
    """
    if not isinstance(encoder, TimmEncoder):
        return
    device = encoder.mean.device
    for side in method_class(recipe.method.name).sides(recipe):
        generator = torch.Generator().manual_seed(0)
        pixels = torch.randint(0, 256, (3, 3, side, side), dtype=torch.uint8, generator=generator).to(device)
        batch = replace(blank_batch(recipe, 3, device), views={"noise": pixels[:, None]})
        with _as_in_training(encoder):
            before = _random_states(device)
            first, second = (_made(encoder, batch, rows) for rows in ([0, 1], [2, 0]))
            if _random_states(device) != before:
                _refuse(encoder, _first_that_draws(encoder, batch), _DRAWS)
            if _differ(first[0], second[1]):
                _refuse(encoder, _first_that_differs(encoder, batch), _MEETS)


@contextmanager
def _as_in_training(encoder: TimmEncoder) -> Iterator[None]:
    """Inside, all that it has but batch norm is as in training, and without a graph."""
    with evaluating(encoder), torch.no_grad():
        encoder.train()
        for norm in norms_of(encoder):
            norm.eval()
            for part in norm.children():  # what timm's batch norms drop
                part.train()
        yield


def _made(encoder: TimmEncoder, batch: Batch, rows: list[int]) -> Tensor:
    chosen = replace(batch, views={"noise": batch.views["noise"][rows]}, samples=batch.samples[rows])
    with drawing(encoder, chosen):
        features: Tensor = encoder(chosen.views["noise"].flatten(0, 1))
    return features


def _differ(one: Tensor, other: Tensor) -> bool:
    """Written so that NaN is no difference: what is not finite is another matter."""
    return bool((one - other).abs().max() > _TOLERANCE * one.abs().max())


def _random_states(device: torch.device) -> list[bytes]:
    states = [torch.get_rng_state()] + ([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])
    return [state.numpy().tobytes() for state in states]


def _first_that_draws(encoder: TimmEncoder, batch: Batch) -> str:
    before: list[list[bytes]] = []
    found: list[str] = []

    def begins(_module: nn.Module, _arguments: Any) -> None:
        before.append(_random_states(encoder.mean.device))

    def ends(name: str, _made: Any) -> None:
        if before.pop() != _random_states(encoder.mean.device):
            found.append(name)

    with _watched(encoder, ends, begins):
        _made(encoder, batch, [0, 1])
    return found[0] if found else ""


def _first_that_differs(encoder: TimmEncoder, batch: Batch) -> str:
    seen: list[list[tuple[str, Tensor]]] = []
    for rows in ([0, 1], [2, 0]):
        of_pass: list[tuple[str, Tensor]] = []
        position = rows.index(0)

        def ends(name: str, made: Any, into: list[tuple[str, Tensor]] = of_pass, row: int = position) -> None:
            if isinstance(made, Tensor) and made.dim() and len(made) % 2 == 0:
                into.append((name, made.detach().reshape(2, -1)[row].float()))

        with _watched(encoder, ends):
            _made(encoder, batch, rows)
        seen.append(of_pass)
    pairs = zip(*seen, strict=False)
    return next((name for (name, one), (_, other) in pairs if one.shape == other.shape and _differ(one, other)), "")


@contextmanager
def _watched(encoder: TimmEncoder, ends: Any, begins: Any = None) -> Iterator[None]:
    """Inside, every layer tells when it begins and, inner ones first, what it made."""
    hooks = []
    for name, module in encoder.backbone.named_modules():
        if begins is not None:
            hooks.append(module.register_forward_pre_hook(begins))
        hooks.append(module.register_forward_hook(lambda _module, _given, made, name=name: ends(name, made)))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _refuse(encoder: TimmEncoder, layer: str, why: str) -> None:
    kind = type(encoder.backbone.get_submodule(layer)).__name__
    raise AgreedError(f"recipe.encoder.name: {encoder.name}: its layer {layer or '(the whole model)'} ({kind}) {why}")
