"""An encoder that is a model of timm: any of them, as timm builds it but for batch norms and what drops by chance."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
import torch.utils.checkpoint
from torch import Tensor, nn

from simclr_dist.errors import UserError
from simclr_dist.models.batch_norm import statistics_held
from simclr_dist.models.drops import Drops
from simclr_dist.models.encoder import HALVES, RGB, Encoder
from simclr_dist.models.statistics_group import StatisticsGroup
from simclr_dist.models.timm_layers import with_drawn_drops, with_grouped_norms
from simclr_dist.models.timm_maps import behind_the_map
from simclr_dist.models.timm_models import create


class TimmEncoder(Encoder):
    """Images to features: normalisation of the pixels, then timm's model without its classifier.

    ``backbone`` is that model, so its weights go in and out of timm as they are.
    """

    backbone: Any

    def __init__(
        self,
        name: str,
        options: Mapping[str, Any],
        *,
        frozen: str = "none",
        mean: Sequence[float] = (0.485, 0.456, 0.406),
        std: Sequence[float] = (0.229, 0.224, 0.225),
        statistics: StatisticsGroup | None = None,
        recompute: str = "none",
        takes: str = RGB,
    ) -> None:
        """timm's model ``name`` made with ``options`` (recipe.encoder).

        ``recompute``: ``blocks`` and ``all`` are both timm's own switch.

        Raises:
            UserError: timm is not installed or has no such model, the model takes no such options, has nothing to
                freeze, cannot recompute, or cannot be computed alike on any number of processes.
        """
        nn.Module.__init__(self)
        self.name = f"timm/{name}"
        if takes == HALVES:
            raise UserError(f"recipe.encoder.name: two halves are made of a ResNet of this project, not of {self.name}")
        model: Any = create(name, options)
        with_grouped_norms(model, statistics)
        drops = Drops()
        # None: nothing is dropped, so that nothing has to be drawn for a step.
        self.drops = drops if with_drawn_drops(model, drops) else None
        if frozen == "patch_projection":
            _patch_projection(model, self.name).requires_grad_(False)
        self._recompute = recompute != "none"
        if self._recompute:
            self._switch_recomputing_on(model, recompute)
        model.output_dim = getattr(model, "head_hidden_size", None) or model.num_features
        self._take(model, mean, std, takes)

    def forward(self, images: Tensor, *, pooled: bool = True) -> Tensor:
        """As :class:`Encoder`; while a method embeds a batch, the rows of an image stand together."""
        pixels = self.pixels_of(images)
        with self.drops.call(len(pixels)) if self.drops else nullcontext(), self._recomputing():
            made: Tensor = self.backbone(pixels) if pooled else self._as_map(self.backbone.forward_features(pixels))
        return made

    def require_map(self) -> None:
        """Nothing is known before there is one: :meth:`map` raises the UserError itself."""

    def maps_only(self) -> None:
        """As :class:`Encoder`: a norm that timm has behind the map."""
        if self._recompute:
            self.backbone.set_grad_checkpointing(False)
        for parameter in behind_the_map(self.backbone):
            parameter.requires_grad_(False)
        if self._recompute:
            self.backbone.set_grad_checkpointing(True)

    def pool(self, maps: Tensor) -> Tensor:
        """As :class:`Encoder`."""
        layout = getattr(self, "_layout", "")
        if layout == "NHWC":
            maps = maps.permute(0, 2, 3, 1)
        elif layout == "tokens":
            maps = maps.flatten(2).transpose(1, 2)
        features: Tensor = self.backbone.forward_head(maps)
        return features

    def _as_map(self, made: Tensor) -> Tensor:
        """(rows, output_dim, h, w) of what timm's forward_features gives; its layout is kept for :meth:`pool`."""
        dim, why = self.output_dim, f"its features before they are pooled are {tuple(made.shape[1:])}"
        if made.dim() == 4 and made.shape[1] == dim:
            self._layout = "NCHW"
            return made
        if made.dim() == 4 and made.shape[3] == dim:
            self._layout = "NHWC"
            return made.permute(0, 3, 1, 2)
        if made.dim() == 3 and made.shape[2] == dim:
            prefix, side = getattr(self.backbone, "num_prefix_tokens", 0), round(made.shape[1] ** 0.5)
            if prefix or getattr(self.backbone, "global_pool", "") != "avg":
                why = "its features are not the mean of its patches; with recipe.encoder.options={class_token: false, "
                why += "global_pool: avg} those of a ViT are"
            elif side * side == made.shape[1]:
                self._layout = "tokens"
                square: Tensor = made.transpose(1, 2).unflatten(2, (side, side))
                return square
        raise UserError(f"recipe.encoder.name: {self.name} has no map of {dim} channels, and maps are needed: {why}")

    def _switch_recomputing_on(self, model: Any, recompute: str) -> None:
        try:
            model.set_grad_checkpointing(True)
        except (AssertionError, AttributeError, NotImplementedError) as error:
            raise UserError(
                f"machine.recompute: '{recompute}' is nothing that timm can do with {self.name}; set "
                "machine.recompute=none (machine.images_per_chunk saves memory, too)"
            ) from error

    @contextmanager
    def _recomputing(self) -> Iterator[None]:
        """Inside, what timm computes again drops the same again, and leaves running statistics alone.

        timm's switch calls torch.utils.checkpoint by its name, and has no place for a context of the second pass.
        """
        if not (self._recompute and self.training and torch.is_grad_enabled()):
            yield
            return
        own = torch.utils.checkpoint.checkpoint

        def checkpoint(function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
            keys = self.drops.keys if self.drops else None
            options |= {"use_reentrant": False, "context_fn": lambda: (nullcontext(), self._second_pass(keys))}
            return own(function, *arguments, **options)

        torch.utils.checkpoint.checkpoint = checkpoint  # type: ignore[assignment]
        try:
            yield
        finally:
            torch.utils.checkpoint.checkpoint = own

    @contextmanager
    def _second_pass(self, keys: Tensor | None) -> Iterator[None]:
        again: AbstractContextManager[None] = self.drops.again(keys) if self.drops else nullcontext()
        with again, statistics_held(self):
            yield


def _patch_projection(model: Any, name: str) -> nn.Module:
    """The layer that makes patches into tokens (``proj`` of timm's ``patch_embed``).

    Raises:
        UserError: there is none.
    """
    found = getattr(getattr(model, "patch_embed", None), "proj", None)
    if not isinstance(found, nn.Module):
        raise UserError(f"recipe.encoder.frozen: {name} has no patch projection; set recipe.encoder.frozen=none")
    return found
