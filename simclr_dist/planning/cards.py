"""GPUs by name: how fast somebody trained a ResNet-50 on them, and who says so.

A rate is of views a second of one GPU: ResNet-50 at 224 pixels, forward and backward pass, with its batch norm. Other
networks are scaled by their traced operations, which is a guess: small images and narrow networks reach less of a GPU.
"""

from dataclasses import dataclass

FLOPS_A_VIEW = 24.5e9
"""Of a ResNet-50 at 224 pixels, forward and backward pass, as :class:`simclr_dist.planning.tracker.StepTracker` counts:
4.09e9 multiplications (torchvision's table), two operations each, three times."""


@dataclass(frozen=True, kw_only=True)
class Rate:
    """Views a second of one GPU, as above."""

    views_per_second: float
    source: str
    """Who measured it, with what."""

    @property
    def flops_per_second(self) -> float:
        """The operations of matrix products and convolutions that this is."""
        return self.views_per_second * FLOPS_A_VIEW


@dataclass(frozen=True, kw_only=True)
class Card:
    """What is known of a GPU."""

    memory_bytes: int
    memory_bandwidth: float
    """Bytes per second, of NVIDIA's data sheet."""
    half: Rate
    """In half precision, channels_last."""
    full: Rate | None = None
    """In float32, without TF32."""
    tf32: Rate | None = None
    """In float32, convolutions in TF32."""


_DEEP_LEARNING_EXAMPLES = "NVIDIA DeepLearningExamples, PyTorch 21.03 (README of resnet50v1.5), each of 8 GPUs"
_MLPERF = "MLPerf v3.0, MXNet, float16, DALI, each of 8 GPUs; of PyTorch on an H100 nothing is published"

CARDS: dict[str, Card] = {
    "v100": Card(
        memory_bytes=16 * 10**9,
        memory_bandwidth=0.9e12,
        half=Rate(views_per_second=1040, source=f"{_DEEP_LEARNING_EXAMPLES}, float16"),
        full=Rate(views_per_second=356, source=_DEEP_LEARNING_EXAMPLES),
    ),
    "v100-32gb": Card(
        memory_bytes=32 * 10**9,
        memory_bandwidth=0.9e12,
        half=Rate(views_per_second=1007, source=f"{_DEEP_LEARNING_EXAMPLES}, float16"),
        full=Rate(views_per_second=345, source=_DEEP_LEARNING_EXAMPLES),
    ),
    "a100-40gb": Card(
        memory_bytes=40 * 10**9,
        memory_bandwidth=1.555e12,
        half=Rate(views_per_second=2078, source=f"{_DEEP_LEARNING_EXAMPLES}, float16, of the 80 GB card"),
    ),
    "a100": Card(
        memory_bytes=80 * 10**9,
        memory_bandwidth=2.039e12,
        tf32=Rate(views_per_second=906, source=_DEEP_LEARNING_EXAMPLES),
        half=Rate(views_per_second=2078, source=f"{_DEEP_LEARNING_EXAMPLES}, float16"),
    ),
    "h100": Card(
        memory_bytes=80 * 10**9, memory_bandwidth=3.35e12, half=Rate(views_per_second=7000, source=_MLPERF)
    ),
    "h200": Card(
        memory_bytes=141 * 10**9,
        memory_bandwidth=4.8e12,
        half=Rate(views_per_second=7000, source=f"{_MLPERF}; an H200 has the same cores"),
    ),
}  # fmt: skip

MEASURED = {
    "h100": Rate(
        views_per_second=4383,
        source="this project's step, bfloat16, one H100 80GB HBM3, torch 2.11.0, 2026-11-26, when ReLUs were kernels "
        "of their own (docs/gpu.md)",
    ),
    "h200": Rate(
        views_per_second=5838,
        source="this project's step, bfloat16, one H200, torch 2.11.0, 2026-11-27 (docs/gpu.md)",
    ),
}
"""Card -> the rate of this project's own step in half precision, as ``benchmarks/gpu.py`` measured it; it takes the
place of the published one."""

_HALF = ("bfloat16", "float16")


def rate_of(card: str, precision: str) -> Rate | None:
    """The rate of a card of :data:`CARDS` in a precision of ``machine.precision``: measured, else published; None: none
    is known."""
    if precision in _HALF:
        return MEASURED.get(card, CARDS[card].half)
    return {"float32": CARDS[card].full, "tf32": CARDS[card].tf32}.get(precision)


def card_named(device: str, memory_bytes: int) -> str | None:
    """The card of :data:`CARDS` that torch calls ``device`` (such as NVIDIA H100 80GB HBM3); None: it is not there."""
    words = device.lower().replace("-", " ").split()
    alike = [name for name in CARDS if name.partition("-")[0] in words]
    return min(alike, key=lambda name: abs(CARDS[name].memory_bytes - memory_bytes), default=None)
