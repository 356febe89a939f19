"""What a format of an export is asked: what it can hold, how it is written, and what its own library makes of it."""

import importlib.metadata
import importlib.util
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from simclr_dist.errors import UserError
from simclr_dist.models.encoder import LIGHTNESS
from simclr_dist.weights.loaded import LoadedEncoder

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
    utf8_paths_only = True
    """Whether what reads the file opens no path of other bytes."""

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


@torch.inference_mode()
def reference_outputs(loaded: LoadedEncoder, images: Tensor) -> list[Tensor]:
    """What :meth:`Format.outputs` must agree with: ours, of uint8 images."""
    features = loaded.encoder(images)
    return [features] if loaded.projection is None else [features, loaded.projection(features)]
