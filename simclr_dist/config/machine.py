"""How it is computed: every key of ``machine``; see recipe.py for the text under the fields."""

from dataclasses import dataclass, field

from simclr_dist.config.fields import MOST_SECONDS, MOST_WORKERS, number, one_of
from simclr_dist.config.shards import Shards
from simclr_dist.config.tracking import Tracking

STOP, GO_ON = ON_LOST_PROCESS = ("stop", "go_on")


@dataclass(kw_only=True)
class Machine:
    """How it is computed. Changing these keys changes the speed and the last bits of rounding, nothing else."""

    run_dir: str = ""
    """Folder of the run: checkpoints, metrics, pictures. Empty: runs/NAME, NAME being the config file's."""
    device: str = one_of("auto", ("auto", "cpu", "cuda"))
    """`auto` takes one GPU a process when there is one, else the CPU."""
    precision: str = one_of("float32", ("float32", "tf32", "bfloat16", "float16", "float64"))
    """Precision of the kernels. bfloat16 and float16 through autocast (float16 with gradient scaling, which skips the
    updates of steps whose gradients overflow: the metrics say which); float64 is for proofs. tf32 lets NVIDIA's GPUs
    round what they convolve to 10 bits; float32 does not."""
    images_per_chunk: int = number(0, low=0)
    """Images that a process takes through the encoder at once; 0: its whole share of the global batch. Less than the
    share means gradient caching: each chunk goes through twice, and must hold whole batch-norm groups."""
    recompute: str = one_of("none", ("none", "blocks", "all"))
    """Activations computed again in the backward pass instead of kept: none; those inside the residual blocks; all (the
    stem's too). Less memory for about a third more time; exact with any batch-norm group."""
    threads_per_process: int = number(0, low=0, high=1024)
    """CPU threads of a process's kernels; 0: one a core of its own; cores that processes share are divided."""
    renderer: str = one_of("numba", ("numba", "torchvision"))
    """What makes views of images on the CPU: loops compiled by numba, or torchvision's operations (the reference, ten
    times slower). Their pixels differ by 1/255 in about one of 100,000, where a blurred pixel is halfway."""
    views_on_device: bool = False
    """Colours and blur on the training device, so that only decoding and cropping are left to the loader workers."""
    loader_workers: int = number(-1, low=-1, high=MOST_WORKERS)
    """Processes that load and augment images, for each training process. 0: none; -1: one a core of its own, to 16."""
    save_every_steps: int = number(500, low=1)
    """Steps between checkpoints, written in the background; one is always written at the end and when the run is
    stopped, and waited for."""
    keep_checkpoints: int = number(3, low=1)
    """How many of the newest checkpoints are kept."""
    keep_every_steps: int = number(0, low=0)
    """Steps between milestones: checkpoints that are kept for good, in the run's folder `kept`, whatever
    keep_checkpoints says. They are written then, whatever save_every_steps says. 0: none."""
    keep_best: str = one_of("none", ("none", "online_knn_top1", "online_linear_top1"))
    """Keep the checkpoint that is the best by this metric of the online evaluations (machine.evaluate_every_epochs), in
    the run's folder `kept`, whatever keep_checkpoints says; a better one takes its place."""
    stop_after_failed_saves: int = number(3, low=1)
    """Stop when this many saves failed one after another, on a full disk for example; before that the run continues."""
    stop_after_steps: int = number(0, low=0)
    """Save and stop when this many steps of the recipe are done; 0: when all are. Raise it to resume."""
    collective_timeout_seconds: int = number(600, low=1, high=MOST_SECONDS)
    """After so long without an answer of all other processes, a process ends, and with it the run: one of them hangs.
    Longer than the longest wait that is right, such as that for a slow file system at the start."""
    on_lost_process: str = one_of("stop", ON_LOST_PROCESS)
    """When a process is killed, fails or hangs. `stop`: the run ends and resumes from its last checkpoint when it is
    started again. `go_on`: the others go on, from the step before in their memory; with --processes, submit or srun.
    On several GPUs it was never run."""
    batch_timeout_seconds: int = number(1800, low=1, high=MOST_SECONDS)
    """After so long without a batch from the loader workers the run saves and ends: the storage of the images does not
    answer. With several processes at most nine tenths of collective_timeout_seconds."""
    compare_every_steps: int = number(100, low=0)
    """Steps between comparisons of weights, optimizer state and sample positions over all processes, which must be the
    same to the bit: a difference stops the run. Also done at the start and before each save. 0: never, but that config
    and sample positions are compared at the start."""
    evaluate_every_epochs: int = number(0, low=0)
    """Epochs between online evaluations of the encoder (kNN and a linear head on labelled training images, into the
    metrics); 0: none. The trajectory is the same with and without."""
    max_broken_image_share: float = number(0.001, low=0.0, high=1.0)
    """Share of the images that may be unreadable (each is reported, and another drawn) before the run stops."""
    debug_numerics: bool = False
    """Look at every layer's output and gradient in every step, to name the first that is not finite (also:
    --debug-numerics). Slow, and nothing is compiled. Without it a step that went wrong is computed once more and looked
    at then."""
    compile: bool = False
    """torch.compile the parts of the method: encoders and heads."""
    cuda_graphs: bool = True
    """On a GPU, record the encoder's and heads' forward and backward pass once and start each in one call, where
    nothing forbids it (recompute, compile, debug_numerics, batch-norm groups of several processes). The same bits."""
    channels_last: bool = False
    """NHWC memory layout, faster for convolutions on GPUs with tensor cores."""
    deterministic: bool = True
    """Deterministic kernels, so that a resumed run is equal to the bit on the same machine."""
    shards: Shards = field(default_factory=Shards)
    """Tar files of source `webdataset`."""
    tracking: Tracking = field(default_factory=Tracking)
    """Weights & Biases and MLflow."""
