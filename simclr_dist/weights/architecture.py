"""Which ResNet some weights belong to: read off their shapes, and built."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from simclr_dist.config import Recipe
from simclr_dist.config.registry import method_class
from simclr_dist.models.batch_norm import GroupedBatchNorm
from simclr_dist.models.encoder import HALVES, RGB, Encoder

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
DEPTHS: dict[tuple[str, tuple[int, ...]], str] = {
    ("BasicBlock", (1, 1, 1, 1)): "resnet10",
    ("BasicBlock", (2, 2, 2, 2)): "resnet18",
    ("BasicBlock", (3, 4, 6, 3)): "resnet34",
    ("Bottleneck", (3, 4, 6, 3)): "resnet50",
    ("Bottleneck", (3, 4, 23, 3)): "resnet101",
    ("Bottleneck", (3, 8, 36, 3)): "resnet152",
}
_STEMS = {7: "imagenet", 3: "small"}
_SHOWN = 3


@dataclass(frozen=True)
class Architecture:
    """A ResNet that :class:`Encoder` can be."""

    name: str
    width: float = 1.0
    stem: str = "imagenet"
    stem_padding: int = 3
    """Zeros around the image for the first convolution: 3 for 7x7; 1 for 3x3, but solo-learn has 2."""
    output_stride: int = 0
    """As recipe.encoder.output_stride."""
    takes: str = RGB
    """What it takes of an image: all, or the lightness."""

    @classmethod
    def of_recipe(cls, recipe: Recipe) -> "Architecture | None":
        """The one that a recipe asks for; None: timm's, one from outside this project, or two halves."""
        encoder, takes = recipe.encoder, method_class(recipe.method.name).TAKES
        if not encoder.is_resnet or takes == HALVES:
            return None
        padding = 3 if encoder.stem == "imagenet" else 1
        return cls(encoder.name, encoder.width, encoder.stem, padding, encoder.output_stride, takes)

    @property
    def block(self) -> str:
        """``BasicBlock`` or ``Bottleneck``, as torchvision and timm call them."""
        return self._kind[0]

    @property
    def blocks(self) -> tuple[int, ...]:
        """Blocks of the four stages."""
        return self._kind[1]

    @property
    def channels(self) -> tuple[int, ...]:
        """Of the four stages, before a bottleneck's expansion; the stem has those of the first."""
        return tuple(round(channels * self.width) for channels in (64, 128, 256, 512))

    @property
    def _kind(self) -> tuple[str, tuple[int, ...]]:
        return next(kind for kind, name in DEPTHS.items() if name == self.name)

    def __str__(self) -> str:
        width = "" if self.width == 1 else f" {self.width:g}x"
        stride = f", output stride {self.output_stride}" if self.output_stride else ""
        takes = f" of the {self.takes}" if self.takes != RGB else ""
        return f"{self.name}{width}, {'7x7' if self.stem == 'imagenet' else '3x3'} stem{stride}{takes}"


def architecture_of(state: Mapping[str, Tensor]) -> Architecture:
    """The architecture of weights under torchvision's names, by their names and shapes.

    Raises:
        ValueError: no encoder of this project has these shapes; names the key.
    """
    first = state["conv1.weight"]
    if first.dim() != 4 or first.shape[1] != 3 or first.shape[2] not in _STEMS:
        raise ValueError(f"conv1.weight has the shape {tuple(first.shape)}; a stem here is (channels, 3, 7, 7) or 3x3")
    stages: list[set[int]] = [set() for _ in range(4)]
    for key in state:
        if key.startswith("layer"):
            stages[int(key[5]) - 1].add(int(key.split(".")[1]))
    block = "Bottleneck" if "layer1.0.conv3.weight" in state else "BasicBlock"
    counts = tuple(len(stage) for stage in stages)
    if (block, counts) not in DEPTHS:
        stages_of = ", ".join(map(str, counts))
        raise ValueError(f"{block}s in stages of {stages_of} are no ResNet known here ({', '.join(DEPTHS.values())})")
    stem = _STEMS[first.shape[2]]
    found = Architecture(DEPTHS[block, counts], first.shape[0] / 64, stem, 3 if stem == "imagenet" else 1)
    complain_of_shapes(state, found)
    return found


def complain_of_shapes(state: Mapping[str, Tensor], architecture: Architecture) -> None:
    """Compare names and shapes with those of the architecture; batch norm's counters may be missing.

    Raises:
        ValueError: a key is missing, left over, or of another shape; names up to three.
    """
    with torch.device("meta"):
        expected = Encoder(
            architecture.name, width=architecture.width, stem=architecture.stem, zero_init_residual=False
        ).backbone.state_dict()
    if missing := missing_keys(state, expected):
        raise ValueError(f"{_keys(missing)} missing for {architecture}")
    unknown = [key for key in state if key not in expected]
    if unknown:
        raise ValueError(f"{_keys(unknown)} more than {architecture} has")
    if other := other_shape(state, expected, str(architecture)):
        raise ValueError(other)


def missing_keys(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[str]:
    """What is expected and not there; batch norm's counters may be missing."""
    return [key for key in expected if key not in state and not key.endswith("num_batches_tracked")]


def other_shape(state: Mapping[str, Tensor], expected: Mapping[str, Tensor], name: str) -> str:
    """In words, the first tensor that has another shape than in the model of that ``name``; "" when all have theirs."""
    for key, tensor in expected.items():
        if key in state and state[key].shape != tensor.shape:
            return f"{key} has the shape {tuple(state[key].shape)}, {name} has {tuple(tensor.shape)} there"
    return ""


def build_encoder(
    architecture: Architecture, state: Mapping[str, Tensor], mean: Sequence[float], std: Sequence[float]
) -> Encoder:
    """The encoder with weights under torchvision's names, in evaluation mode, float32, on the CPU.

    Raises:
        ValueError: as :func:`complain_of_shapes`.
    """
    complain_of_shapes(state, architecture)
    with torch.device("meta"):  # initial weights would be thrown away
        encoder = Encoder(
            architecture.name,
            width=architecture.width,
            stem=architecture.stem,
            norm_layer=GroupedBatchNorm,
            output_stride=architecture.output_stride,
            takes=architecture.takes,
        )
    encoder.mean, encoder.std = (torch.tensor(list(values)).view(3, 1, 1) for values in (mean, std))
    encoder.backbone.conv1.padding = (architecture.stem_padding,) * 2
    counters = {key: torch.tensor(0) for key in encoder.backbone.state_dict() if key.endswith("num_batches_tracked")}
    # Copies: a file's tensors begin at any address, torch's own at multiples of 64, and matrix products round by it.
    copies = {key: tensor.clone(memory_format=torch.contiguous_format) for key, tensor in state.items()}
    encoder.backbone.load_state_dict({**counters, **copies}, assign=True)
    return encoder.requires_grad_().eval().float()


def _keys(keys: Sequence[str]) -> str:
    more = f" and {len(keys) - _SHOWN} more keys are" if len(keys) > _SHOWN else " is" if len(keys) == 1 else " are"
    return ", ".join(keys[:_SHOWN]) + more
