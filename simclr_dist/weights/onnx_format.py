"""The ONNX format of an export, by torch's exporter."""

import json
import logging
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from simclr_dist.weights import loading
from simclr_dist.weights.format import Format
from simclr_dist.weights.loaded import LoadedEncoder
from simclr_dist.weights.read import METADATA_KEY


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
