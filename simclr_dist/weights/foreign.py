"""Other projects' files: tensors out of them without running any code, and what their makers left unsaid."""

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from simclr_dist.errors import UserError, code_in_file, first_line, is_of_memory
from simclr_dist.storage.paths import refuse_not_utf8
from simclr_dist.storage.reading import cannot_be_read
from simclr_dist.weights.architecture import IMAGENET_MEAN, IMAGENET_STD, Architecture, architecture_of
from simclr_dist.weights.layouts import Found, find_network

_DEEPEST = 8


@dataclass(frozen=True)
class Foreign:
    """A network of another project."""

    state: dict[str, Tensor]
    """Under torchvision's names, float32."""
    architecture: Architecture
    project: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    assumed: tuple[str, ...]
    """What the file does not say."""


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a file of torch.save or of safetensors; nested dicts become dotted names.

    Raises:
        UserError: it cannot be read, or would have to run code.
    """
    try:
        with path.open("rb") as file:
            begin = file.read(9)
    except OSError as error:
        raise cannot_be_read(path, error) from error
    if path.suffix == ".onnx":
        raise UserError(f"{path}: ONNX holds a graph and cannot be read back; export to safetensors and give that")
    if begin[8:9] == b"{" or path.suffix == ".safetensors":
        return read_safetensors(path)[0]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the pickle protocols of files that are then refused
            content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise cannot_be_read(path, error) from error
    except Exception as error:  # torch raises whatever its parsers meet
        if is_of_memory(error):
            raise UserError(f"{path}: not enough memory to read it") from error
        if code := code_in_file(error):
            raise UserError(
                f"{path}: holds more than tensors ({code}), and code of a file is never run; where it can be "
                "trusted, load it there and save its state dict alone: torch.save(model.state_dict(), FILE)"
            ) from error
        raise UserError(f"{path}: cut off, or neither a file of torch.save nor of safetensors") from error
    return dict(_flat(content))


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata of a file of safetensors.

    Raises:
        UserError: it is damaged, or its path is none that safetensors opens.
    """
    refuse_not_utf8(path, "safetensors")
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except OSError as error:
        raise cannot_be_read(path, error) from error
    except SafetensorError as error:
        raise UserError(f"{path}: cut off, or not a file of safetensors: {first_line(error)}") from error


def identify(path: Path, tensors: Mapping[str, Tensor], prefix: str | None = None) -> Foreign:
    """The network among tensors of a foreign file.

    Raises:
        UserError: none of the known layouts fits; names the nearest and the keys.
    """
    try:
        found = find_network(tensors, prefix)
        state = {key: tensor if "num_b" in key else tensor.float() for key, tensor in found.state.items()}
        architecture = architecture_of(state)
    except ValueError as error:
        raise UserError(f"{path}: {error}; of a model of timm: simclr-dist import --encoder timm/NAME") from error
    mean, std, assumed = IMAGENET_MEAN, IMAGENET_STD, ["pixels normalised as for ImageNet (else --mean, --std)"]
    project = _project(tensors, found, state)
    if project.startswith("Google's"):
        # Their eval.py: "the original model do not have normalization"; verify.py takes ToTensor alone.
        mean, std, assumed = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), ["pixels in 0..1, not normalised, as Google's"]
    if project == "solo-learn" and architecture.stem == "small":
        architecture = replace(architecture, stem_padding=2)
        assumed.append("padding 2 in the first convolution, as solo-learn's for CIFAR (else --stem-padding)")
    if architecture.stem == "small":
        assumed.append("no max-pool after the 3x3 stem")
    return Foreign(state, architecture, project, mean, std, tuple(assumed))


def _project(tensors: Mapping[str, Tensor], found: Found, state: Mapping[str, Tensor]) -> str:
    """Who wrote it, as far as names say."""
    if found.layout.name.startswith("SimCLRv2"):
        return "Google's SimCLR v2, by SimCLRv2-Pytorch"
    if "_feature_blocks." in found.prefix:
        return "VISSL"
    module = found.prefix.removesuffix(".").rpartition(".")
    beside = {key[len(module[0]) + len(module[1]) :].partition(".")[0] for key in tensors if key.startswith(module[0])}
    if module[2] in ("backbone", "encoder") and beside & {"classifier", "projector"}:
        return "solo-learn"
    if (module[2] == "backbone" and "projection_head" in beside) or found.layout.name.startswith("a Sequential"):
        return "lightly"
    # tonylins' converter copies tensors into an untrained network: its batch norms have counted no batch.
    counted = [int(tensor) for key, tensor in state.items() if key.endswith("num_batches_tracked")]
    if found.prefix == "state_dict." and set(counted) == {0}:
        return "Google's SimCLR v1, by simclr-converter"
    return f"{found.layout.name.removesuffix(chr(39) + 's')} layout"


def _flat(content: Any, prefix: str = "", depth: int = 0) -> Iterator[tuple[str, Tensor]]:
    if isinstance(content, Tensor):
        yield prefix.removesuffix("."), content
    elif isinstance(content, Mapping) and depth < _DEEPEST:
        for key, value in content.items():
            yield from _flat(value, f"{prefix}{key}.", depth + 1)
