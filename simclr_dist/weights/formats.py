"""The four formats of an export: how each is written, and how what was written is run by its own library."""

import io
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from simclr_dist import __version__
from simclr_dist.errors import UserError
from simclr_dist.models.encoder import HALVES
from simclr_dist.weights import loading
from simclr_dist.weights.architecture import Architecture
from simclr_dist.weights.format import Format, reference_outputs
from simclr_dist.weights.loaded import LoadedEncoder
from simclr_dist.weights.onnx_format import Onnx
from simclr_dist.weights.read import HEAD, METADATA_KEY


class ResNetFormat(Format):
    """A layout of torchvision's names, which has room for ResNets and for heads of the usual layers."""

    def check(self, loaded: LoadedEncoder) -> None:
        instead = "take --to safetensors or onnx"
        if loaded.architecture is None:
            halves, keys = loaded.encoder.takes == HALVES, loaded.recipe.encoder
            what = f"{keys.name}, an encoder of your own"
            if halves or keys.of_timm:
                what = "two networks side by side" if halves else keys.name
            instead = "take --to timm" if keys.of_timm else instead
            raise UserError(f"--to: {self.compared_with} has no layout of {what}; {instead}")
        if layer := loading.unknown_layer(loaded.projection):
            raise UserError(
                f"--with-head: {self.compared_with}'s layout has no room for a head with {layer}; {instead}"
            )

    def _architecture(self, loaded: LoadedEncoder) -> Architecture:
        assert loaded.architecture is not None
        return loaded.architecture


class Torchvision(ResNetFormat):
    """A state dict of torch.save under torchvision's names; a head is ``fc``."""

    suffix = ".pth"
    compared_with = "torchvision"
    utf8_paths_only = False

    def lines(self, loaded: LoadedEncoder) -> list[str]:
        return loading.torchvision_lines(self._architecture(loaded), loaded.projection)

    def write(self, file: Path, loaded: LoadedEncoder, description: dict[str, Any]) -> None:
        content = io.BytesIO()  # torch's own writer of files says of a full disk only that it is at a wrong position
        torch.save({**_backbone(loaded), **_fc(loaded.projection)}, content)
        file.write_bytes(content.getbuffer())


class Timm(ResNetFormat):
    """safetensors under timm's names, which are torchvision's for ResNets."""

    suffix = ".timm.safetensors"
    libraries = ("timm",)
    compared_with = "timm"

    def check(self, loaded: LoadedEncoder) -> None:
        if not (name := loaded.recipe.encoder.of_timm):
            super().check(loaded)
        elif loaded.projection is not None:
            raise UserError(f"--with-head: timm's {name} has no room for a head; take --to safetensors or onnx")

    def lines(self, loaded: LoadedEncoder) -> list[str]:
        keys = loaded.recipe.encoder
        if keys.of_timm:
            return loading.timm_model_lines(keys.of_timm, keys.options)
        return loading.timm_lines(self._architecture(loaded), loaded.projection)

    def write(self, file: Path, loaded: LoadedEncoder, description: dict[str, Any]) -> None:
        _save_safetensors(file, {**_backbone(loaded), **_fc(loaded.projection)}, description)


class Safetensors(Format):
    """Our own: torchvision's names, the head under ``projection``, the description inside."""

    suffix = ".safetensors"
    compared_with = "simclr_dist"

    def input(self, loaded: LoadedEncoder) -> str:
        return "uint8 (images, 3, height, width), RGB; the encoder normalises, the weights alone do not"

    def check(self, loaded: LoadedEncoder) -> None:
        if loaded.projection is not None and any(key.startswith(HEAD) for key in loaded.encoder.backbone.state_dict()):
            raise UserError(
                f"--with-head: the encoder itself has weights named {HEAD}*; leave it out, or take --to onnx"
            )

    def library(self) -> str:
        return f"simclr_dist {__version__}"  # which may run from a checkout, uninstalled

    def lines(self, loaded: LoadedEncoder) -> list[str]:
        return loading.own_lines()

    def write(self, file: Path, loaded: LoadedEncoder, description: dict[str, Any]) -> None:
        head = loaded.projection.state_dict() if loaded.projection is not None else {}
        state = {**_backbone(loaded), **{f"{HEAD}{key}": value for key, value in head.items()}}
        _save_safetensors(file, state, description)

    def outputs(self, file: Path, loaded: LoadedEncoder, images: Tensor) -> list[Tensor]:
        return reference_outputs(self._loaded(file, loaded)["loaded"], images)


FORMATS: dict[str, Format] = {
    "torchvision": Torchvision(),
    "timm": Timm(),
    "onnx": Onnx(),
    "safetensors": Safetensors(),
}


def _backbone(loaded: LoadedEncoder) -> dict[str, Tensor]:
    return {key: value.contiguous() for key, value in loaded.encoder.backbone.state_dict().items()}


def _fc(head: nn.Module | None) -> dict[str, Tensor]:
    """The head's tensors as those of a Sequential called fc; torch's batch norms always have a gain and an offset."""
    state: dict[str, Tensor] = {}
    for number, layer in enumerate(head.children() if head is not None else ()):
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            ones = torch.ones(layer.num_features)
            state |= {f"fc.{number}.weight": ones, f"fc.{number}.bias": torch.zeros_like(ones)}
        state |= {f"fc.{number}.{key}": value for key, value in layer.state_dict().items()}
    return state


def _save_safetensors(file: Path, state: dict[str, Tensor], description: dict[str, Any]) -> None:
    from safetensors.torch import save

    metadata = {"format": "pt", METADATA_KEY: json.dumps(description)}
    # Not its save_file, which makes files that nobody else may read.
    file.write_bytes(save({key: value.contiguous() for key, value in state.items()}, metadata=metadata))
