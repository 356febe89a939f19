"""The lines that load an export in another program: written into its sidecar, and run as they are by the check."""

from torch import nn

from simclr_dist.weights.architecture import Architecture

_TIMM_NAMES = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")


def torchvision_lines(architecture: Architecture, head: nn.Module | None) -> list[str]:
    """Python that makes ``model`` of the weights in ``FILE`` with torch and torchvision alone."""
    blocks, block = list(architecture.blocks), architecture.block
    if architecture.name in _TIMM_NAMES:
        lines = ["import torch, torchvision", f"model = torchvision.models.{architecture.name}()"]
    else:
        lines = ["import torch", f"from torchvision.models.resnet import {block}, ResNet"]
        lines += [f"model = ResNet({block}, {blocks})"]
    lines += _stem_lines(architecture)
    if architecture.width != 1:
        if architecture.name in _TIMM_NAMES:
            lines.insert(1, f"from torchvision.models.resnet import {block}")
        lines.append(f"model.inplanes = {architecture.channels[0]}")
        for number, (channels, count) in enumerate(zip(architecture.channels, blocks, strict=True), 1):
            stride = "" if number == 1 else ", stride=2"
            lines.append(f"model.layer{number} = model._make_layer({block}, {channels}, {count}{stride})")
    lines.append(f"model.fc = {_head_code(head)}")
    return [*lines, "model.load_state_dict(torch.load(FILE, weights_only=True))", "model.eval()"]


def timm_lines(architecture: Architecture, head: nn.Module | None) -> list[str]:
    """The same with timm."""
    block, channels = architecture.block, architecture.channels
    if architecture.name in _TIMM_NAMES:
        lines = ["import timm, torch", f'model = timm.create_model("{architecture.name}", num_classes=0)']
    else:
        lines = ["import timm, torch", f"from timm.models.resnet import {block}, ResNet"]
        lines.append(f"model = ResNet({block}, {architecture.blocks}, num_classes=0)")
    lines += _stem_lines(architecture)
    if architecture.width != 1:
        lines.insert(1, f"from timm.models.resnet import {block}, make_blocks")
        lines.append(
            f"for name, stage in make_blocks(({block},) * 4, {channels}, {architecture.blocks}, {channels[0]})[0]:"
        )
        lines.append("    setattr(model, name, stage)")
    if head is not None:
        lines.append(f"model.fc = {_head_code(head)}")
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
        "from pathlib import Path",
        "from simclr_dist.weights.read import load_encoder",
        "loaded = load_encoder(Path(FILE))",
        "model = loaded.encoder",
    ]


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


def _head_code(head: nn.Module | None) -> str:
    """The head out of torch's own layers, the last batch norm with an offset of zero."""
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
