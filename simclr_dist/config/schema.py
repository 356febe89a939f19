"""Every key of a config: its type, default, allowed values and, under it, its documentation.

``simclr-dist config --explain`` prints this file as a table, so the text under a field is what users read.
Units stand in the names. Nothing here imports torch: a config can be checked anywhere, at once.
"""

from dataclasses import dataclass, field

from simclr_dist.config.anomalies import Anomalies
from simclr_dist.config.fields import number, one_of
from simclr_dist.config.health import Health

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


@dataclass(kw_only=True)
class Machine:
    """How it is computed. Changing these keys changes the speed and the last bits of rounding, nothing else."""

    run_dir: str = ""
    """Folder of the run: checkpoints, metrics, pictures. Empty: runs/NAME, NAME being the config file's."""
    device: str = one_of("auto", ("auto", "cpu", "cuda"))
    """`auto` takes one GPU a process when there is one, else the CPU."""
    precision: str = one_of("float32", ("float32", "bfloat16", "float16", "float64"))
    """Precision of the kernels. bfloat16 and float16 through autocast (float16 with gradient scaling); float64 is for
    proofs."""
    images_per_chunk: int = number(0, low=0)
    """Images that a process takes through the encoder at once; 0: its whole share of the global batch. Less than the
    share means gradient caching: each chunk goes through twice, and must hold whole batch-norm groups."""
    recompute: str = one_of("none", ("none", "blocks", "all"))
    """Activations computed again in the backward pass instead of kept: none; those inside the residual blocks; all (the
    stem's too). Less memory for about a third more time; exact with any batch-norm group."""
    threads_per_process: int = number(0, low=0)
    """CPU threads of a process's kernels; 0: the cores this job may use, divided among its local processes."""
    renderer: str = one_of("numba", ("numba", "torchvision"))
    """What makes views of images on the CPU: loops compiled by numba, or torchvision's operations (the reference, ten
    times slower). Their pixels differ by 1/255 in about one of 100,000, where a blurred pixel is halfway."""
    views_on_device: bool = False
    """Colours and blur on the training device, so that only decoding and cropping are left to the loader workers."""
    loader_workers: int = number(-1, low=-1)
    """Processes that load and augment images, for each training process. 0: none; -1: one a core, at most 16."""
    save_every_steps: int = number(500, low=1)
    """Steps between checkpoints, written in the background; one is always written at the end and when the run is
    stopped, and waited for."""
    keep_checkpoints: int = number(3, low=1)
    """How many of the newest checkpoints are kept."""
    stop_after_failed_saves: int = number(3, low=1)
    """Stop when this many saves failed one after another, on a full disk for example; before that the run goes on."""
    stop_after_steps: int = number(0, low=0)
    """Save and stop when this many steps of the recipe are done; 0: when all are. Start again to go on."""
    collective_timeout_seconds: int = number(600, low=1)
    """After so long without an answer of all other processes, a process ends, and with it the run: one of them hangs.
    Longer than the longest wait that is right, such as that for a slow file system at the start."""
    compare_every_steps: int = number(100, low=0)
    """Steps between comparisons of weights, optimizer state and sample positions over all processes, which must be the
    same to the bit: a difference stops the run. Also done at the start and before each save. 0: never, but that config
    and sample positions are compared at the start."""
    evaluate_every_epochs: int = number(0, low=0)
    """Epochs between looks at the encoder (kNN and a linear head on labelled training images, into the metrics); 0:
    none. The trajectory is the same with and without."""
    max_broken_image_share: float = number(0.001, low=0.0, high=1.0)
    """Share of the images that may be unreadable (each is reported, and another drawn) before the run stops."""
    debug_numerics: bool = False
    """Look at every layer's output and gradient in every step, to name the first that is not finite (also:
    --debug-numerics). Slow, and nothing is compiled. Without it a step that went wrong is computed once more and looked
    at then."""
    compile: bool = False
    """torch.compile the encoder and the head."""
    channels_last: bool = False
    """NHWC memory layout, faster for convolutions on GPUs with tensor cores."""
    deterministic: bool = True
    """Deterministic kernels, so that a resumed run is equal to the bit on the same machine."""


@dataclass(kw_only=True)
class Config:
    recipe: Recipe = field(default_factory=Recipe)
    machine: Machine = field(default_factory=Machine)
    health: Health = field(default_factory=Health)

    def check(self) -> None:
        """Refuse combinations that no machine could run.

        Raises:
            ValueError: naming the keys and the cure.
        """
        recipe, views, data = self.recipe, self.recipe.views, self.recipe.data
        self.health.check()
        if recipe.warmup_epochs > recipe.epochs:
            raise ValueError(
                f"recipe.warmup_epochs: {recipe.warmup_epochs:g} is more than recipe.epochs ({recipe.epochs}); "
                "lower the one or raise the other"
            )
        if recipe.batch_norm_group_images and recipe.global_batch_images % recipe.batch_norm_group_images:
            raise ValueError(
                f"recipe.batch_norm_group_images: {recipe.batch_norm_group_images} does not divide "
                f"recipe.global_batch_images ({recipe.global_batch_images}); take a divisor, or 0 for the whole batch"
            )
        if views.crop_area_min > views.crop_area_max:
            raise ValueError("recipe.views.crop_area_min: must not exceed recipe.views.crop_area_max; swap them")
        if views.blur_sigma_min > views.blur_sigma_max:
            raise ValueError("recipe.views.blur_sigma_min: must not exceed recipe.views.blur_sigma_max; swap them")
        if views.hue * views.color_strength > 0.5:
            raise ValueError(
                "recipe.views.hue: times recipe.views.color_strength is above 0.5, half the circle; lower it"
            )
        if min(data.std) <= 0:
            raise ValueError(f"recipe.data.std: {data.std} divides the pixels; all three must be above 0")
        if recipe.optimizer.name in ("adamw", "lamb") and recipe.optimizer.momentum >= 1:
            raise ValueError(
                f"recipe.optimizer.momentum: 1 cannot be the first beta of {recipe.optimizer.name}; take 0.9, say"
            )
        if bool(data.path) == (data.source in SOURCES_WITHOUT_PATH):
            raise ValueError(
                f"recipe.data.path: '{data.path}' has no meaning for source '{data.source}'; remove it"
                if data.path
                else f"recipe.data.path: source '{data.source}' needs it; set recipe.data.path=FOLDER"
            )
