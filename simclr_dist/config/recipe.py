"""What is computed: every key of ``recipe``. The trajectory of a run depends on these and on nothing else.

``simclr-dist config --explain`` prints this file as a table, so the text under a field is what users read. Units stand
in the names. Only the method that a recipe names imports torch.
"""

from dataclasses import dataclass, field
from functools import partial
from typing import Any

from simclr_dist.config.anomalies import Anomalies
from simclr_dist.config.fields import (
    FOLLOWS,
    MOST_EPOCHS,
    MOST_PIXELS,
    number,
    number_that_follows,
    one_of,
    somebodys_options,
)
from simclr_dist.config.initial import Initial
from simclr_dist.config.method import MethodKeys
from simclr_dist.config.registry import method_class, method_keys
from simclr_dist.config.views import ViewGroup

SOURCES_WITH_MASKS = ("folder_with_masks", "voc", "voc_sbd", "cityscapes", "oxford_pet")
SOURCES = (
    "digits",
    "folder",
    *SOURCES_WITH_MASKS,
    "cifar10",
    "cifar100",
    "stl10",
    "fashion_mnist",
    "imagenet",
    "beton",
    "ffcv",
    "webdataset",
    "frames",
    "videos",
)
SOURCES_WITHOUT_PATH = ("digits",)
TIMM = "timm/"
"""Before the names of timm's models."""
ENCODERS = ("resnet10", "resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
OPTIMIZERS = ("lars", "sgd", "adamw", "lamb")
DECAYS = ("cosine", "cosine_by_epoch", "steps")


@dataclass(kw_only=True)
class Data:
    source: str = one_of("folder", SOURCES, outside=True)
    """Where the images come from. `digits` needs no file; the others read `path`. `ffcv`: a .beton through ffcv's own
    loader and JPEG decoder, where ffcv is installed (docs/data.md). A source of your own: package.module:function
    (docs/methods.md)."""
    path: str = ""
    """Folder of the data set. A place, not a content: a resumed run may find the same images elsewhere. For `beton`
    and `ffcv`: a file, or a folder with train.beton and test.beton (pretraining prefers pretrain.beton when it is
    there). For `webdataset`: the folder of an index (`simclr-dist data index`), or one with `train` and `test`."""
    image_size: int = number(224, low=8, high=MOST_PIXELS)
    """Side of a view in pixels."""
    mean: list[float] = field(default_factory=lambda: [0.485, 0.456, 0.406])
    """Subtracted from each colour channel (images in 0..1) before the encoder."""
    std: list[float] = field(default_factory=lambda: [0.229, 0.224, 0.225])
    """Divides each colour channel after `mean` was subtracted."""
    transparent_ground: str = one_of("white", ("white", "black", "grey", "none"))
    """What is seen through the transparent parts of an image. `none`: the colours stored below them, which nobody has
    seen and which are often all black (versions before these keys did so)."""
    apply_orientation: bool = True
    """Turn an image as its EXIF orientation says. A phone stores a portrait photo lying and notes how it was held, and
    every viewer turns it. false: the pixels as they are stored (as versions before, and torchvision's own readers)."""
    window_shards: int = number(16, low=1)
    """Of `webdataset`: how many shards the batches of a while are drawn from. More mix better, and need a larger
    cache."""
    labelled_images: int = number(0, low=0)
    """Of a source with masks: how many images keep theirs in pretraining, those whose names have the smallest SHA-256,
    so fewer are always among more. 0: all."""
    unlabelled_images: str = one_of("left_out", ("left_out", "kept"))
    """The others: `left_out`, or `kept` without a mask (every pixel ignored), with those in unlabelled/ of a
    `folder_with_masks`."""


@dataclass(kw_only=True)
class Encoder:
    name: str = one_of("resnet50", ENCODERS, outside=True, prefix=TIMM)
    """torchvision's ResNet of that depth; `resnet10` has one basic block a stage (for demos and tests). Any model of
    timm, where that is installed: timm/convnext_tiny, say (docs/encoders.md). An encoder of your own:
    package.module:Class (docs/methods.md). Another name on the command line than in the file leaves out the file's
    `options`."""
    options: dict[str, Any] = somebodys_options()  # noqa: RUF009  # makes a field
    """What timm's model is made with: {drop_path_rate: 0.1}, or {img_size: 32, patch_size: 4} of a ViT. For timm's
    models alone."""
    frozen: str = one_of("none", ("none", "patch_projection"))
    """`patch_projection`: the layer that makes patches into tokens stays as it began (MoCo v3, section 4.2: a ViT is
    more stable so). For timm's models with patches alone."""
    width: float = number(1.0, above=0.0, high=64.0)
    """Multiplies every channel count, as the paper's wide ResNets (2 = ResNet-50 2x)."""
    stem: str = one_of("imagenet", ("imagenet", "small"))
    """`imagenet`: 7x7 convolution of stride 2 and max-pool. `small`: 3x3 of stride 1, no max-pool (CIFAR, digits)."""
    zero_init_residual: bool = True
    """Start the last batch norm of each residual branch at zero, as Google's code does."""
    output_stride: int = number(0, low=0)
    """Pixels of the image to one of the last map, a side. 0: the network's own, 32, or 8 with the small stem. 16 or 8
    (4 or 2): the strides of the last one or two stages become dilation, for dense methods; the weights have the same
    names and shapes."""

    @property
    def of_timm(self) -> str:
        """timm's name of it; "" of an encoder that is not timm's."""
        return self.name.removeprefix(TIMM) if self.name.startswith(TIMM) else ""

    @property
    def is_resnet(self) -> bool:
        """Whether it is a ResNet of this project."""
        return self.name in ENCODERS


def dilated_stages(stem: str, output_stride: int) -> int:
    """How many of a ResNet's last stages have dilation in place of their stride of 2.

    Raises:
        ValueError: with this stem no number of them gives ``output_stride`` (0: the network's own).
    """
    own = 8 if stem == "small" else 32
    strides = (own, own // 2, own // 4)
    if output_stride and output_stride not in strides:
        raise ValueError(
            f"recipe.encoder.output_stride: {output_stride} is none of {', '.join(map(str, strides))}, which the stem "
            f"'{stem}' leaves; take one of them, or 0 for the network's own"
        )
    return strides.index(output_stride or own)


def widened(channels: int, width: float) -> int:
    """Channels of a layer of a ResNet in recipe.encoder.width.

    Raises:
        ValueError: none are left.
    """
    if round(channels * width) < 1:
        raise ValueError(f"recipe.encoder.width: {width:g} leaves a layer of {channels} channels without any; raise it")
    return round(channels * width)


@dataclass(kw_only=True)
class Optimizer:
    name: str = one_of("lars", OPTIMIZERS)
    """`lars` (Google's rule) and `lamb` (torch_optimizer's, with biases and batch norm left out of its adaptation) are
    this project's own; `sgd` and `adamw` torch's."""
    base_learning_rate: float = number(0.3, above=0.0)
    """Learning rate before scaling with the batch."""
    learning_rate_scaling: str = one_of("linear", ("linear", "sqrt", "none"))
    """Peak rate for a global batch of B images. linear: base*B/256; sqrt: base*sqrt(B) (base 0.075); none: base."""
    learning_rate_decay: str = one_of("cosine", DECAYS)
    """After the warm-up. `cosine`: by step. `cosine_by_epoch`: constant within an epoch (MoCo v2, SimSiam). `steps`: a
    tenth from 60 % of the run on, a hundredth from 80 % on (MoCo v1 and NPID: epochs 120 and 160 of 200)."""
    final_learning_rate_share: float = number(0.0, low=0.0, high=1.0)
    """Where the cosine ends, as a share of the peak rate (Barlow Twins, VICReg and SwAV: 0.001)."""
    weight_decay: float = number(1e-6, low=0.0, high=1000.0)
    """Weight decay. Biases and batch norm are always left out."""
    momentum: float = number(0.9, low=0.0, high=1.0)
    """Momentum of `lars` and `sgd`; the first beta of `adamw` and `lamb`."""
    trust_coefficient: float = number(0.001, above=0.0)
    """LARS's eta: the adapted rate is eta * |w| / |gradient + decay| times the learning rate."""
    clip_gradient_norm: float = number(0.0, low=0.0)
    """Longest gradient of a parameter tensor, each by itself: a longer one is scaled down to it (DINO: 3). 0: none is.
    The gradient norm in metrics is that before."""
    classic_momentum: bool = True
    """LARS only. true: the learning rate inside the momentum buffer (Google's default). false: outside it."""
    trust_in_momentum: bool = False
    """LARS with `classic_momentum: false`. true: each gradient is adapted before it enters the buffer, and the rate
    alone stays outside (BYOL, MoCo v3, Barlow Twins, VICReg). false: the buffer is adapted (Google's other form)."""
    trust_clip: bool = False
    """LARS only. true: a weight's rate is the smaller one of eta * |w| / |gradient + decay| and the learning rate, not
    their product (solo-learn's recipes, with `trust_coefficient: 0.02`)."""


@dataclass(kw_only=True)
class Recipe:
    """What is computed. The trajectory of a run depends on these keys and on the images, on nothing else."""

    seed: int = number(0, low=0, high=2**63 - 1)
    """Seeds the initial weights, the order of the images and every random choice of every view."""
    epochs: int = number(100, low=1, high=MOST_EPOCHS)
    """Passes over the images. An epoch drops the images that do not fill a global batch (others each time)."""
    warmup_epochs: float = number_that_follows("a tenth of recipe.epochs, at most 10", low=0.0)
    """Linear warm-up of the learning rate from 0, in epochs; then recipe.optimizer.learning_rate_decay."""
    global_batch_images: int = number(4096, low=2, high=10_000_000)
    """Images in a step over all processes."""
    batch_norm_group_images: int = number(0, low=0)
    """Batch-norm statistics are taken over groups of this many images; 0: the whole global batch, as the paper."""
    data: Data = field(default_factory=Data)
    initial: Initial = field(default_factory=Initial)
    method: MethodKeys = field(default_factory=partial(method_keys, "simclr"))
    views: dict[str, ViewGroup] = field(default_factory=dict)
    """Group -> its keys. Empty: the groups of the method, as it has them."""
    encoder: Encoder = field(default_factory=Encoder)
    optimizer: Optimizer = field(default_factory=Optimizer)
    anomalies: Anomalies = field(default_factory=Anomalies)

    def __post_init__(self) -> None:
        if self.warmup_epochs == FOLLOWS:
            self.warmup_epochs = usual_warmup(self.epochs)
        self.views = self.views or method_class(self.method.name).views(self.method)


def usual_warmup(epochs: int) -> float:
    """Epochs of warm-up where none are given: the paper's 10 from 100 epochs on, a tenth of shorter runs."""
    return min(10.0, epochs / 10)
