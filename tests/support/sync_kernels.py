"""Stand-ins of the kernels of torch's SyncBatchNorm, which only a GPU has."""

import torch
from torch import Tensor


def as_parameters(values: Tensor, x: Tensor) -> Tensor:
    """(channels,) to broadcast over ``x``."""
    return values.view(-1, *(1,) * (x.dim() - 2))


def accumulated(*tensors: Tensor) -> list[Tensor]:
    return [tensor.to(torch.promote_types(tensor.dtype, torch.float32)) for tensor in tensors]


class SyncKernels:
    """What aten/src/ATen/native/cuda/Normalization.cu computes, with what it asks of its arguments."""

    @staticmethod
    def batch_norm_update_stats(
        x: Tensor, running_mean: None, running_var: None, momentum: float
    ) -> tuple[Tensor, ...]:
        assert running_mean is running_var is None
        (x,) = accumulated(x)
        variance, mean = torch.var_mean(x, [0, *range(2, x.dim())], correction=0)
        return mean, variance

    @staticmethod
    def batch_norm_elemt(
        x: Tensor, weight: Tensor, bias: Tensor | None, mean: Tensor, inverse: Tensor, eps: float, *, out: Tensor
    ) -> Tensor:
        SyncKernels.check(x, out, mean, inverse, weight, weight if bias is None else bias)
        scale, mean = as_parameters(weight * inverse, x), as_parameters(mean, x)
        return out.copy_((x - mean) * scale + (0 if bias is None else as_parameters(bias, x)))

    @staticmethod
    def batch_norm_backward_reduce(
        grad: Tensor, x: Tensor, mean: Tensor, inverse: Tensor, weight: Tensor, *wanted: bool
    ) -> tuple[Tensor | None, ...]:
        SyncKernels.check(x, grad, mean, inverse, weight)
        assert wanted == (True, False, False)
        grad, x = accumulated(grad, x)
        dims = [0, *range(2, x.dim())]
        return grad.sum(dims), (grad * (x - as_parameters(mean, x))).sum(dims), None, None

    @staticmethod
    def batch_norm_backward_elemt(
        grad: Tensor, x: Tensor, mean: Tensor, inverse: Tensor, weight: Tensor,
        sum_grad: Tensor, sum_grad_x: Tensor, counts: Tensor,
    ) -> Tensor:  # fmt: skip
        SyncKernels.check(x, grad, mean, inverse, weight, sum_grad, sum_grad_x)
        assert counts.dtype == torch.int32
        assert counts.dim() == 1
        mean_grad, factor = sum_grad / counts.sum(), sum_grad_x * inverse**2 / counts.sum()
        mean, mean_grad, factor, scale = (as_parameters(v, x) for v in (mean, mean_grad, factor, weight * inverse))
        return ((grad - mean_grad - (x - mean) * factor) * scale).to(x.dtype)

    @staticmethod
    def check(x: Tensor, other: Tensor, *of_channels: Tensor) -> None:
        assert (other.stride(), other.dtype) == (x.stride(), x.dtype)
        for values in of_channels:
            assert values.shape == (x.shape[1],)
            assert values.is_contiguous()
            assert values.dtype == torch.promote_types(x.dtype, torch.float32)


KERNELS = {name: getattr(SyncKernels, name) for name in vars(SyncKernels) if name.startswith("batch_norm")}
