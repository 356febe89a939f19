"""The lines that load an export in another program: written into its sidecar, and run as they are by the check."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from simclr_dist.config.recipe import dilated_stages
from simclr_dist.weights.architecture import Architecture

_KNOWN = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")


def torchvision_lines(architecture: Architecture, head: nn.Module | None) -> list[str]:
    """Python that makes ``model`` of the weights in ``FILE`` with torch and torchvision alone."""
    block, known = architecture.block, architecture.name in _KNOWN
    names = ([block] if architecture.width != 1 or not known else []) + ([] if known else ["ResNet"])
    lines = ["import torch, torchvision", *_imports("torchvision.models.resnet", names)]
    made = f"torchvision.models.{architecture.name}()" if known else f"ResNet({block}, {list(architecture.blocks)})"
    lines += [f"model = {made}", *_stem_lines(architecture)]
    if architecture.width != 1:
        lines.append(f"model.inplanes = {architecture.channels[0]}")
        for number, (channels, count) in enumerate(zip(architecture.channels, architecture.blocks, strict=True), 1):
            stride = "" if number == 1 else ", stride=2"
            lines.append(f"model.layer{number} = model._make_layer({block}, {channels}, {count}{stride})")
    lines += [*_dilation_lines(architecture), f"model.fc = {_head_code(head)}"]
    return [*lines, "model.load_state_dict(torch.load(FILE, weights_only=True))", "model.eval()"]


def timm_lines(architecture: Architecture, head: nn.Module | None) -> list[str]:
    """The same with timm."""
    block, blocks, channels = architecture.block, architecture.blocks, architecture.channels
    known, wide = architecture.name in _KNOWN, architecture.width != 1
    names = ([block] if wide or not known else []) + ([] if known else ["ResNet"]) + (["make_blocks"] if wide else [])
    lines = ["import timm, torch", *_imports("timm.models.resnet", names)]
    made = f'timm.create_model("{architecture.name}", ' if known else f"ResNet({block}, {blocks}, "
    lines += [f"model = {made}num_classes=0)", *_stem_lines(architecture)]
    if wide:
        lines.append(f"for name, stage in make_blocks(({block},) * 4, {channels}, {blocks}, {channels[0]})[0]:")
        lines.append("    setattr(model, name, stage)")
    lines += _dilation_lines(architecture)
    if head is not None:
        lines.append(f"model.fc = {_head_code(head)}")
    return [*lines, "timm.models.load_checkpoint(model, FILE)", "model.eval()"]


def timm_model_lines(name: str, options: Mapping[str, Any]) -> list[str]:
    """The same of a model that is timm's own."""
    given = f", **{dict(options)!r}" if options else ""
    lines = ["import timm", f"model = timm.create_model({name!r}, num_classes=0{given})"]
    return [*lines, "timm.models.load_checkpoint(model, FILE)", "model.eval()"]


def onnx_lines() -> list[str]:
    """The same with onnxruntime; it makes ``session``."""
    return [
        "import onnxruntime",
        'session = onnxruntime.InferenceSession(FILE, providers=["CPUExecutionProvider"])',
    ]


def own_lines() -> list[str]:
    """The same with this project."""
    return [
        "from simclr_dist import load_encoder",
        "loaded = load_encoder(FILE)",
        "model = loaded.encoder",
    ]


def _imports(module: str, names: list[str]) -> list[str]:
    return [f"from {module} import {', '.join(names)}"] if names else []


def _stem_lines(architecture: Architecture) -> list[str]:
    """What differs from the stem that the library builds."""
    channels, padding = architecture.channels[0], architecture.stem_padding
    lines = []
    if architecture.stem == "small":
        lines.append(f"model.conv1 = torch.nn.Conv2d(3, {channels}, 3, padding={padding}, bias=False)")
        lines.append("model.maxpool = torch.nn.Identity()")
    elif architecture.width != 1 or padding != 3:
        lines.append(f"model.conv1 = torch.nn.Conv2d(3, {channels}, 7, stride=2, padding={padding}, bias=False)")
    if architecture.width != 1:
        lines.append(f"model.bn1 = torch.nn.BatchNorm2d({channels})")
    return lines


def _dilation_lines(architecture: Architecture) -> list[str]:
    """Dilation in place of the last stages' strides, if any: what the libraries have is for bottlenecks alone."""
    dilated = dilated_stages(architecture.stem, architecture.output_stride)
    stages = [f"(model.layer{5 - dilated + number}, {2**number})" for number in range(dilated)]
    return [] if not stages else [
        f"for stage, dilation in [{', '.join(stages)}]:  # output stride {architecture.output_stride}",
        "    for conv in (part for part in stage.modules() if isinstance(part, torch.nn.Conv2d)):",
        "        if conv.kernel_size == (3, 3):",
        "            conv.dilation = conv.padding = (dilation if conv.stride == (2, 2) else 2 * dilation,) * 2",
        "        conv.stride = (1, 1)",
    ]  # fmt: skip


def unknown_layer(head: nn.Module | None) -> str:
    """The first layer of a head that torch's own lines could not make; "" when there is none."""
    if head is not None and not isinstance(head, nn.Sequential):
        return type(head).__name__
    known = (nn.Linear, nn.ReLU, nn.modules.batchnorm._BatchNorm)
    return next((type(layer).__name__ for layer in head or () if not isinstance(layer, known)), "")


def _head_code(head: nn.Module | None) -> str:
    """The head out of torch's own layers, each batch norm with a gain and an offset, of one and zero if it had none."""
    if head is None:
        return "torch.nn.Identity()"
    layers = []
    for layer in head.children():
        if isinstance(layer, nn.Linear):
            bias = "" if layer.bias is not None else ", bias=False"
            layers.append(f"torch.nn.Linear({layer.in_features}, {layer.out_features}{bias})")
        elif isinstance(layer, nn.ReLU):
            layers.append("torch.nn.ReLU()")
        else:
            layers.append(f"torch.nn.BatchNorm1d({layer.num_features})")
    return f"torch.nn.Sequential({', '.join(layers)})"
