"""Whether the device's kernels are as exact in float32 as a run takes them to be: all other checks are in float64."""

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional

from simclr_dist.verification.check import Check, relative_error
from simclr_dist.verification.miniature import Miniature

_FLOAT32 = 1e-5  # of sums of some hundred terms, in any order and algorithm; TF32's are off by 3e-4
_TF32 = 2e-3


def kernel_checks(small: Miniature, precision: str) -> list[Check]:
    """A convolution and a matrix product; ``machine.precision`` tf32 lets convolutions be rounded."""
    images, kernels = small.random(8, 64, 12, 12), small.random(64, 64, 3, 3)
    rows, columns = small.random(128, 256, seed=1), small.random(256, 128, seed=2)
    return [
        Check(
            "float32 convolution",
            _rounding(lambda x, w: functional.conv2d(x, w, padding=1), images, kernels),
            _TF32 if precision == "tf32" else _FLOAT32,
        ),
        Check("float32 product", _rounding(lambda a, b: a @ b, rows, columns), _FLOAT32),
    ]


def _rounding(operation: Callable[[Tensor, Tensor], Tensor], one: Tensor, other: Tensor) -> float:
    one, other = one.float(), other.float()
    return relative_error(operation(one, other), operation(one.double(), other.double()))
