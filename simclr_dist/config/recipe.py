"""What is computed: every key of ``recipe``. The trajectory of a run depends on these and on nothing else.

``simclr-dist config --explain`` prints this file as a table, so the text under a field is what users read. Units stand
in the names. Nothing here imports torch: a config can be checked anywhere, at once.
"""

from dataclasses import dataclass, field

from simclr_dist.config.anomalies import Anomalies
from simclr_dist.config.fields import number, one_of

SOURCES = ("digits", "folder", "cifar10", "cifar100", "stl10", "imagenet", "beton")
SOURCES_WITHOUT_PATH = ("digits",)
ENCODERS = ("resnet10", "resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
COLOR_FORMS = ("exact", "affine")
OPTIMIZERS = ("lars", "sgd", "adamw", "lamb")


@dataclass(kw_only=True)
class Data:
    source: str = one_of("folder", SOURCES)
    """Where the images come from. `digits` needs no file; the others read `path`."""
    path: str = ""
    """Folder of the data set. A place, not a content: a resumed run may find the same images elsewhere. For `beton`: a
    file, or a folder with train.beton and test.beton (pretraining prefers pretrain.beton when it is there)."""
    image_size: int = number(224, low=8)
    """Side of a view in pixels."""
    mean: list[float] = field(default_factory=lambda: [0.485, 0.456, 0.406])
    """Subtracted from each colour channel (images in 0..1) before the encoder."""
    std: list[float] = field(default_factory=lambda: [0.229, 0.224, 0.225])
    """Divides each colour channel after `mean` was subtracted."""


@dataclass(kw_only=True)
class Views:
    crop_area_min: float = number(0.08, above=0.0, high=1.0)
    """Smallest share of the image's area that a random resized crop takes."""
    crop_area_max: float = number(1.0, above=0.0, high=1.0)
    """Largest share of the image's area that a random resized crop takes."""
    flip_probability: float = number(0.5, low=0.0, high=1.0)
    """Probability of a left-right flip."""
    color_strength: float = number(1.0, low=0.0, high=2.0)
    """The paper's s: multiplies brightness, contrast, saturation and hue below (1 for ImageNet, 0.5 for CIFAR)."""
    color_probability: float = number(0.8, low=0.0, high=1.0)
    """Probability that the four colour operations are applied (in random order)."""
    brightness: float = number(0.8, low=0.0)
    """Brightness factor is drawn from 1 - b*s .. 1 + b*s, not below 0."""
    contrast: float = number(0.8, low=0.0)
    """Contrast factor is drawn from 1 - c*s .. 1 + c*s, not below 0."""
    saturation: float = number(0.8, low=0.0)
    """Saturation factor is drawn from 1 - t*s .. 1 + t*s, not below 0."""
    hue: float = number(0.2, low=0.0, high=0.5)
    """Hue shift is drawn from -h*s .. h*s of the full circle; h*s at most 0.5."""
    color_form: str = one_of("exact", COLOR_FORMS)
    """`exact`: torchvision's four operations one after the other. `affine`: fused into one matrix an image, faster, but
    without clamping between them and with hue as a rotation: views that are 5/255 apart in the mean (photos, s = 1)."""
    grayscale_probability: float = number(0.2, low=0.0, high=1.0)
    """Probability of dropping the colour."""
    blur_probability: float = number(0.5, low=0.0, high=1.0)
    """Probability of a Gaussian blur; the kernel is 10 % of the image's side, made odd."""
    blur_sigma_min: float = number(0.1, above=0.0)
    """Smallest standard deviation of the blur, pixels."""
    blur_sigma_max: float = number(2.0, above=0.0)
    """Largest standard deviation of the blur, pixels."""
    solarize_probability: float = number(0.0, low=0.0, high=1.0)
    """Probability of inverting all pixels of 128 and more (BYOL's; SimCLR has none)."""


@dataclass(kw_only=True)
class Encoder:
    name: str = one_of("resnet50", ENCODERS)
    """torchvision's ResNet of that depth; `resnet10` has one basic block a stage (for demos and tests)."""
    width: float = number(1.0, above=0.0)
    """Multiplies every channel count, as the paper's wide ResNets (2 = ResNet-50 2x)."""
    stem: str = one_of("imagenet", ("imagenet", "small"))
    """`imagenet`: 7x7 convolution of stride 2 and max-pool. `small`: 3x3 of stride 1, no max-pool (CIFAR, digits)."""
    zero_init_residual: bool = True
    """Start the last batch norm of each residual branch at zero, as Google's code does."""


@dataclass(kw_only=True)
class Projection:
    layers: int = number(2, low=1, high=3)
    """Linear layers of the head: 1 linear, 2 as SimCLR, 3 as SimCLR v2."""
    hidden_dim: int = number(0, low=0)
    """Units of the hidden layers; 0 takes the encoder's output size, as the paper."""
    output_dim: int = number(128, low=2)
    """Size of the embedding that the loss sees."""
    batch_norm: bool = True
    """Batch norm after every layer, the last one without an offset, as the official code."""


@dataclass(kw_only=True)
class Loss:
    temperature: float = number(0.1, above=0.0)
    """The temperature of NT-Xent (the paper: 0.1 for ImageNet at long schedules, 0.5 for CIFAR)."""
    scale: float = number(1.0, above=0.0)
    """Multiplies the mean NT-Xent. Google's code adds two means: 2 reproduces it. LARS hides it from weights only."""


@dataclass(kw_only=True)
class Optimizer:
    name: str = one_of("lars", OPTIMIZERS)
    """`lars` is this project's own (Google's rule); `sgd` and `adamw` torch's; `lamb` torch_optimizer's."""
    base_learning_rate: float = number(0.3, above=0.0)
    """Learning rate before scaling with the batch."""
    learning_rate_scaling: str = one_of("linear", ("linear", "sqrt", "none"))
    """Peak rate for a global batch of B images. linear: base*B/256; sqrt: base*sqrt(B) (base 0.075); none: base."""
    weight_decay: float = number(1e-6, low=0.0)
    """Weight decay. Biases and batch norm are always left out."""
    momentum: float = number(0.9, low=0.0, high=1.0)
    """Momentum of `lars` and `sgd`; the first beta of `adamw` and `lamb`."""
    trust_coefficient: float = number(0.001, above=0.0)
    """LARS's eta: the adapted rate is eta * |w| / |gradient + decay| times the learning rate."""
    classic_momentum: bool = True
    """LARS only. true: the learning rate inside the momentum buffer (Google's default). false: outside it."""


@dataclass(kw_only=True)
class Recipe:
    """What is computed. The trajectory of a run depends on these keys and on the images, on nothing else."""

    seed: int = number(0, low=0, high=2**63 - 1)
    """Seeds the initial weights, the order of the images and every random choice of every view."""
    method: str = one_of("simclr", ("simclr",))
    """The pretraining method."""
    epochs: int = number(100, low=1)
    """Passes over the images. An epoch drops the images that do not fill a global batch (others each time)."""
    warmup_epochs: float = number(10.0, low=0.0)
    """Linear warm-up of the learning rate from 0, in epochs; then a cosine to 0."""
    global_batch_images: int = number(4096, low=2)
    """Images in a step over all processes. Each has two views, and all others are its negatives."""
    batch_norm_group_images: int = number(0, low=0)
    """Batch-norm statistics are taken over groups of this many images; 0: the whole global batch, as the paper."""
    data: Data = field(default_factory=Data)
    views: Views = field(default_factory=Views)
    encoder: Encoder = field(default_factory=Encoder)
    projection: Projection = field(default_factory=Projection)
    loss: Loss = field(default_factory=Loss)
    optimizer: Optimizer = field(default_factory=Optimizer)
    anomalies: Anomalies = field(default_factory=Anomalies)
