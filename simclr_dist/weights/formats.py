"""The four formats of an export: how each is written, and how what was written is run by its own library."""

import importlib.metadata
import importlib.util
import json
import logging
import warnings
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from simclr_dist import __version__
from simclr_dist.errors import UserError
from simclr_dist.models.encoder import HALVES, LIGHTNESS
from simclr_dist.weights import loading
from simclr_dist.weights.architecture import Architecture
from simclr_dist.weights.loaded import LoadedEncoder
from simclr_dist.weights.read import HEAD, METADATA_KEY

_NORMALISED = "float32 (images, 3, height, width), RGB: (pixels / 255 - mean) / std; the weights do not normalise"
_LIGHTNESS = (
    "float32 (images, 3, height, width), three times the lightness L of CIELAB: (L / 100 - mean) / std; the weights "
    "neither convert nor normalise"
)


class Format(ABC):
    """One value of --to."""

    suffix: str
    libraries: tuple[str, ...] = ()
    """What writing and the comparison import beyond this project's dependencies; the extra ``export`` has them."""
    compared_with: str

    def input(self, loaded: LoadedEncoder) -> str:
        """What the file takes."""
        return _LIGHTNESS if loaded.encoder.takes == LIGHTNESS else _NORMALISED

    def require(self) -> None:
        """Refuse before any work when a library is missing.

        Raises:
            UserError: naming the extra.
        """
        missing = [name for name in self.libraries if importlib.util.find_spec(name) is None]
        if missing:
            raise UserError(f"--to: {', '.join(missing)} is not installed; pip install 'simclr_dist[export]'")

    def check(self, loaded: LoadedEncoder) -> None:  # noqa: B027  # most formats hold everything
        """Refuse what the format cannot hold.

        Raises:
            UserError: naming a format that can.
        """

    @abstractmethod
    def lines(self, loaded: LoadedEncoder) -> list[str]:
        """Python that loads the file called ``FILE``."""

    @abstractmethod
    def write(self, file: Path, loaded: LoadedEncoder, description: dict[str, Any]) -> None:
        """Write the file; ``description`` goes inside where there is room."""

    def outputs(self, file: Path, loaded: LoadedEncoder, images: Tensor) -> list[Tensor]:
        """Features (images, output_dim), and embeddings when there is a head, by the library of the format."""
        model = self._loaded(file, loaded)["model"]
        pixels = loaded.encoder.normalised(images.float() / 255)
        with torch.inference_mode():
            if loaded.projection is None:
                return [model(pixels)]
            embeddings = model(pixels)
            model.fc = nn.Identity()
            return [model(pixels), embeddings]

    def _loaded(self, file: Path, loaded: LoadedEncoder) -> dict[str, Any]:
        """The names that the sidecar's own lines make, so that what it shows users has been run."""
        names: dict[str, Any] = {"FILE": str(file)}
        exec("\n".join(self.lines(loaded)), names)
        return names

    def library(self) -> str:
        """What the comparison ran with, and its version."""
        return f"{self.compared_with} {importlib.metadata.version(self.compared_with)}"


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

    def lines(self, loaded: LoadedEncoder) -> list[str]:
        return loading.torchvision_lines(self._architecture(loaded), loaded.projection)

    def write(self, file: Path, loaded: LoadedEncoder, description: dict[str, Any]) -> None:
        torch.save({**_backbone(loaded), **_fc(loaded.projection)}, file)


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


class Onnx(Format):
    """A graph from pixels in 0..1, normalised inside, to ``features`` and ``embeddings``; any number of images."""

    suffix = ".onnx"
    libraries = ("onnx", "onnxscript", "onnxruntime")
    compared_with = "onnxruntime"

    def input(self, loaded: LoadedEncoder) -> str:
        return "'images', float32 (images, 3, image_size, image_size), RGB in 0..1; the graph normalises"

    def lines(self, loaded: LoadedEncoder) -> list[str]:
        return loading.onnx_lines()

    def write(self, file: Path, loaded: LoadedEncoder, description: dict[str, Any]) -> None:
        import onnx

        names = ["features", "embeddings"][: 1 if loaded.projection is None else 2]
        example = torch.rand(2, 3, loaded.image_size, loaded.image_size)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter's, about its own insides
            logging.getLogger("torch.onnx").setLevel(logging.ERROR)
            torch.onnx.export(
                _FromPixels(loaded).eval(),
                (example,),
                file,
                dynamo=True,
                input_names=["images"],
                output_names=names,
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                external_data=False,
                verbose=False,
            )
        model = onnx.load(file)
        onnx.helper.set_model_props(model, {METADATA_KEY: json.dumps(description)})
        onnx.save(model, file)

    def outputs(self, file: Path, loaded: LoadedEncoder, images: Tensor) -> list[Tensor]:
        session = self._loaded(file, loaded)["session"]
        return [torch.from_numpy(array) for array in session.run(None, {"images": (images.float() / 255).numpy()})]


class _FromPixels(nn.Module):
    """float32 pixels in 0..1 to features, and to embeddings when there is a head."""

    def __init__(self, loaded: LoadedEncoder) -> None:
        super().__init__()
        self.encoder, self.projection = loaded.encoder, loaded.projection

    def forward(self, images: Tensor) -> Any:
        features = self.encoder.backbone(self.encoder.normalised(images))
        return features if self.projection is None else (features, self.projection(features))


FORMATS: dict[str, Format] = {
    "torchvision": Torchvision(),
    "timm": Timm(),
    "onnx": Onnx(),
    "safetensors": Safetensors(),
}


@torch.inference_mode()
def reference_outputs(loaded: LoadedEncoder, images: Tensor) -> list[Tensor]:
    """What :meth:`Format.outputs` must agree with: ours, of uint8 images."""
    features = loaded.encoder(images)
    return [features] if loaded.projection is None else [features, loaded.projection(features)]


def _backbone(loaded: LoadedEncoder) -> dict[str, Tensor]:
    return {key: value.contiguous() for key, value in loaded.encoder.backbone.state_dict().items()}


def _fc(head: nn.Module | None) -> dict[str, Tensor]:
    """The head's tensors as those of a Sequential called fc; torch's batch norms always have an offset."""
    state = {}
    for number, layer in enumerate(head.children() if head is not None else ()):
        state.update({f"fc.{number}.{key}": value for key, value in layer.state_dict().items()})
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.bias is None:
            state[f"fc.{number}.bias"] = torch.zeros_like(layer.weight.detach())
    return state


def _save_safetensors(file: Path, state: dict[str, Tensor], description: dict[str, Any]) -> None:
    from safetensors.torch import save

    metadata = {"format": "pt", METADATA_KEY: json.dumps(description)}
    # Not its save_file, which makes files that nobody else may read.
    file.write_bytes(save({key: value.contiguous() for key, value in state.items()}, metadata=metadata))
