"""The kernels of grouped batch norm on a CPU and on a GPU; the latter's by stand-ins, and on fake tensors."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from simclr_dist.models import batch_norm_cpu, batch_norm_cuda, batch_norm_function, batch_norm_triton
from simclr_dist.models.batch_norm import GroupedBatchNorm
from simclr_dist.models.batch_norm_function import BatchNormOfGroups
from simclr_dist.models.statistics_group import StatisticsGroup
from simclr_dist.planning.fakes import fake_mode
from tests.support.interpreted_norms import Case, rectified
from tests.support.processes import relative_error
from tests.support.sync_kernels import KERNELS

CHANNELS, EPS = 6, 1e-5
NCHW, NHWC = torch.contiguous_format, torch.channels_last


def put_stand_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of torch's kernels for CUDA alone, and so that a CPU's tensors take their way."""
    for name, kernel in KERNELS.items():
        monkeypatch.setattr(torch, name, kernel)
    monkeypatch.setattr(batch_norm_function, "kernels_for", lambda x: batch_norm_cuda)


def drawn(*shape: int, dtype: torch.dtype = torch.float64, layout: torch.memory_format = NCHW) -> Tensor:
    generator = torch.Generator().manual_seed(len(shape))
    values = 3 + 2 * torch.randn(shape, generator=generator, dtype=torch.float64)
    return values.to(dtype).contiguous(memory_format=layout)


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("layout", [NCHW, NHWC])
@pytest.mark.parametrize(("dtype", "exact", "rounded"), [(torch.float64, 1e-13, 1e-13), (torch.bfloat16, 1e-6, 3e-3)])
def test_kernels_for_a_gpu_compute_what_those_for_a_cpu_do(monkeypatch, dtype, exact, rounded, layout, groups):
    x, grad = drawn(12, CHANNELS, 5, 4, dtype=dtype, layout=layout), drawn(12, CHANNELS, 5, 4, dtype=dtype).sin()
    grad = torch.empty_like(x).copy_(grad)
    precise = torch.promote_types(dtype, torch.float32)
    weight, bias = (drawn(CHANNELS, dtype=precise).sin() for _ in range(2))
    sums = drawn(2, groups, CHANNELS, dtype=precise)  # as of a group that has rows elsewhere

    def made(kernels) -> dict[str, Tensor]:
        mean, variance = kernels.statistics(x, groups)
        inverse = torch.rsqrt(variance + EPS)
        sum_grad, sum_grad_x = kernels.gradient_sums(grad, x, mean, inverse, weight)
        return {
            "mean": mean, "variance": variance, "sum of gradients": sum_grad, "and rows": sum_grad_x,
            "output": kernels.normalise(x, weight, bias, mean, inverse, EPS),
            "output without offset": kernels.normalise(x, weight, None, mean, inverse, EPS),
            "input gradient": kernels.input_gradient(grad, x, mean, inverse, weight, *sums, 100),
        }  # fmt: skip

    expected = made(batch_norm_cpu)
    put_stand_ins(monkeypatch)
    for name, value in made(batch_norm_cuda).items():
        assert (value.dtype, value.stride()) == (expected[name].dtype, expected[name].stride()), name
        bound = rounded if value.dtype == dtype else exact
        assert relative_error(value.double(), expected[name].double()) < bound, name


def by_torch(x: Tensor, grad: Tensor, norm: GroupedBatchNorm, groups: int) -> dict[str, Tensor]:
    """torch's own batch norm of each group, in float64 on a CPU."""
    x = x.detach().cpu().double().requires_grad_()
    weight, bias = (parameter.detach().cpu().double().requires_grad_() for parameter in (norm.weight, norm.bias))
    y = torch.cat([F.batch_norm(rows, None, None, weight, bias, training=True) for rows in x.chunk(groups)])
    (y * grad.cpu().double()).sum().backward()
    assert x.grad is not None
    dims = [0, *range(2, x.dim())]
    variances, means = zip(*(torch.var_mean(rows, dims) for rows in x.detach().chunk(groups)), strict=True)
    return {
        "output": y.detach(), "input gradient": x.grad, "weight gradient": weight.grad, "bias gradient": bias.grad,
        "running mean": torch.stack(means).mean(0), "running variance": torch.stack(variances).mean(0),
    }  # fmt: skip


def by_ours(x: Tensor, grad: Tensor, group: StatisticsGroup) -> tuple[dict[str, Tensor], GroupedBatchNorm]:
    """Everything that batch norm makes of ``x`` on its device."""
    x = x.detach().requires_grad_()
    norm = GroupedBatchNorm(x.shape[1], momentum=1.0, statistics=group).to(x.device)
    norm = norm.double() if x.dtype == torch.float64 else norm
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(0.5, 2, x.shape[1]))
    y = norm(x)
    y.backward(grad)
    made = {
        "output": y.detach(), "input gradient": x.grad, "weight gradient": norm.weight.grad,
        "bias gradient": norm.bias.grad, "running mean": norm.running_mean, "running variance": norm.running_var,
    }  # fmt: skip
    return made, norm


@pytest.mark.parametrize("shape", [(12, CHANNELS, 5, 4), (12, CHANNELS), (12, CHANNELS, 7)])
@pytest.mark.parametrize("group", [StatisticsGroup(3), StatisticsGroup(spans_processes=True)])
def test_a_gpus_way_equals_torchs_batch_norm_of_each_group(monkeypatch, shape, group):
    put_stand_ins(monkeypatch)
    x, grad = drawn(*shape), drawn(*shape).sin()
    for layout in [NCHW, NHWC] if x.dim() == 4 else [NCHW]:
        # The gradient lies as it comes.
        made, norm = by_ours(x.contiguous(memory_format=layout), grad, group)
        for name, expected in by_torch(x, grad, norm, group.local_groups).items():
            assert relative_error(made[name], expected) < 1e-11, (layout, name)


class Watch(TorchDispatchMode):
    """The calls of torch's kernels for batch norm, and the types of all tensors as large as an input."""

    def __init__(self, elements: int) -> None:
        super().__init__()
        self.elements, self.calls, self.types = elements, list[str](), set[torch.dtype]()

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        made = function(*arguments, **(options or {}))
        if "batch_norm" in str(function):
            self.calls.append(str(function).removeprefix("aten."))
        self.types |= {made.dtype} if isinstance(made, Tensor) and made.numel() >= self.elements else set()
        return made


@pytest.mark.parametrize("layout", [NCHW, NHWC])
@pytest.mark.parametrize("groups", [1, 2])
def test_torchs_kernels_for_a_gpu_are_called_as_declared_and_half_precision_is_not_copied_to_float32(layout, groups):
    with fake_mode(), torch.device("cuda"):
        x = torch.empty(4, CHANNELS, 5, 5, dtype=torch.bfloat16).to(memory_format=layout)
        weight, bias = torch.ones(CHANNELS), torch.zeros(CHANNELS)
        group = StatisticsGroup(groups, spans_processes=groups == 1)
        context = SimpleNamespace(mark_non_differentiable=lambda *_: None)
        context.save_for_backward = lambda *tensors: setattr(context, "saved_tensors", tensors)
        with Watch(x.numel() // groups) as watch:
            y, mean, variance = BatchNormOfGroups.forward(context, x, weight, bias, EPS, group)
            # autograd itself would ask for a true GPU.
            grad_x, grad_weight, grad_bias, *_ = BatchNormOfGroups.backward(context, torch.empty_like(y), None, None)
    assert watch.calls == [
        name
        for name in ("batch_norm_update_stats.default", "batch_norm_elemt.out", "batch_norm_backward_reduce.default",
                     "batch_norm_backward_elemt.default")
        for _ in range(groups)
    ]  # fmt: skip
    assert watch.types == {torch.bfloat16}
    for tensor in (y, grad_x):
        assert (tensor.stride(), tensor.dtype, tensor.device.type) == (x.stride(), torch.bfloat16, "cuda")
    assert {tensor.dtype for tensor in (mean, variance, grad_weight, grad_bias)} == {torch.float32}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_plan_gets_from_fake_tensors_what_a_cpus_kernel_makes(dtype):
    x, running = drawn(8, CHANNELS, dtype=dtype), torch.zeros(2, CHANNELS)
    true = torch.batch_norm_update_stats(x, running[0], running[1], 0.0)
    with fake_mode(), Watch(1) as watch:
        made = torch.batch_norm_update_stats(x, running[0], running[1], 0.0)
    assert watch.calls == ["batch_norm_update_stats.default"]
    assert [(each.shape, each.dtype) for each in made] == [(each.shape, each.dtype) for each in true]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("layout", [NCHW, NHWC])
@pytest.mark.parametrize("groups", [1, 2])
def test_statistics_of_half_precision_are_as_exact_as_those_of_float32(dtype, layout, groups):
    # torch's kernels for half precision are off by 1e-6 to 1e-5 here.
    x = drawn(32, 16, 32, 32, dtype=dtype, layout=layout)
    grad = (1 + drawn(32, 16, 32, 32).sin()).to(x.dtype).contiguous(memory_format=layout)
    made, norm = by_ours(x, grad, StatisticsGroup(groups))
    expected = by_torch(x, grad, norm, groups)
    for name in ("running mean", "running variance", "bias gradient"):
        assert relative_error(made[name].double(), expected[name]) < 2e-7, name
    for name in ("output", "input gradient"):
        assert relative_error(made[name].double(), expected[name]) < 2e-3, name  # rounded once


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("shape", [(64, 48, 14, 14), (64, 48, 1, 1), (256, 128), (64, 48, 3, 3)])
@pytest.mark.parametrize(("dtype", "layout"), [
    (torch.float64, NCHW), (torch.float32, NCHW), (torch.float32, NHWC), (torch.bfloat16, NCHW), (torch.bfloat16, NHWC),
    (torch.float16, NHWC),
])  # fmt: skip
@pytest.mark.parametrize("group", [StatisticsGroup(4), StatisticsGroup(spans_processes=True)])
@pytest.mark.parametrize("by_triton", [True, False])
def test_on_a_gpu_batch_norm_is_float64s_and_the_same_bits_again(monkeypatch, shape, dtype, layout, group, by_triton):
    if not by_triton:
        monkeypatch.setattr(batch_norm_triton, "available", lambda _: False)
    x, grad = drawn(*shape, dtype=dtype).cuda(), drawn(*shape, dtype=dtype).sin().cuda()
    if len(shape) == 4:
        x, grad = (tensor.contiguous(memory_format=layout) for tensor in (x, grad))
    made, norm = by_ours(x, grad, group)
    again, _ = by_ours(x, grad, group)
    exact, rounded = {torch.float64: (1e-12, 1e-12), torch.float32: (3e-6, 3e-6)}.get(dtype, (3e-6, 4e-3))
    for name, expected in by_torch(x, grad, norm, group.local_groups).items():
        assert torch.equal(made[name], again[name]), name
        bound = rounded if name in ("output", "input gradient") else exact
        error = relative_error(made[name].double().cpu(), expected)
        assert error < bound, f"{name}: {error:.1e}"
    assert made["output"].stride() == made["input gradient"].stride() == x.stride()


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize(("shape", "groups"), [((64, 130, 7, 7), 4), ((256, 128), 1)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("layout", [NCHW, NHWC])
def test_on_a_gpu_sum_and_relu_in_batch_norms_own_pass_have_the_bits_of_three_steps(shape, groups, dtype, layout):
    precise = torch.promote_types(dtype, torch.float32)
    x, grad = drawn(*shape, dtype=dtype).cuda(), drawn(*shape).sin().to(dtype).cuda()
    if len(shape) == 4:
        x, grad = (tensor.contiguous(memory_format=layout) for tensor in (x, grad))
    weight, bias = drawn(2, shape[1], dtype=precise).sin().cuda()
    case = Case(x, grad, weight, bias, drawn(2, groups, shape[1]))
    together, apart = (rectified(case, in_one_pass=way) for way in (True, False))
    for what, value in together.items():
        assert torch.equal(value, apart[what]), what
        assert value.stride() == apart[what].stride(), what
