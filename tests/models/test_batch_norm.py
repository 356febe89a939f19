"""Batch norm over groups of images, wherever the images of a group are."""

import pytest
import torch
from torch import nn

from simclr_dist.errors import UserError
from simclr_dist.models.batch_norm import GroupedBatchNorm, average_running_statistics, copy_all
from simclr_dist.models.statistics_group import StatisticsGroup, divide_batch_norm
from tests.support.processes import relative_error, run_distributed

IMAGES, CHANNELS = 16, 5


def inputs() -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of two views an image with a large mean, and weights for a loss."""
    generator = torch.Generator().manual_seed(0)
    x = 100 + 3 * torch.randn(2 * IMAGES, CHANNELS, 3, 4, generator=generator, dtype=torch.float64)
    return x, torch.randn(x.shape, generator=generator, dtype=torch.float64)


def with_parameters(norm: nn.Module) -> nn.Module:
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(0.5, 2, CHANNELS))
        norm.bias.copy_(torch.linspace(-1, 1, CHANNELS))
    return norm.double().train()


def by_torch(group_images: int) -> dict[str, torch.Tensor]:
    """torch's own batch norm applied to each group of the whole batch, in one process."""
    x, factors = inputs()
    x.requires_grad_()
    groups = x.split(2 * group_images)
    norms = [with_parameters(nn.BatchNorm2d(CHANNELS)) for _ in groups]
    y = torch.cat([norm(rows) for norm, rows in zip(norms, groups, strict=True)])
    (y * factors).sum().backward()
    return {
        "output": y.detach(),
        "input gradient": x.grad,
        "weight gradient": sum(norm.weight.grad for norm in norms),
        "bias gradient": sum(norm.bias.grad for norm in norms),
        "running mean": torch.stack([norm.running_mean for norm in norms]).mean(0),
        "running variance": torch.stack([norm.running_var for norm in norms]).mean(0),
    }


def _by_ours(group_images: int, count: int) -> dict[str, torch.Tensor]:
    rank = torch.distributed.get_rank() if count > 1 else 0
    x, factors = (tensor.chunk(count)[rank] for tensor in inputs())
    x = x.clone().requires_grad_()
    norm = with_parameters(GroupedBatchNorm(CHANNELS, statistics=divide_batch_norm(group_images, IMAGES, count)))
    y = norm(x)
    (y * factors).sum().backward()
    average_running_statistics(norm)
    return {
        "output": y.detach(),
        "input gradient": x.grad,
        "weight gradient": norm.weight.grad,
        "bias gradient": norm.bias.grad,
        "running mean": norm.running_mean,
        "running variance": norm.running_var,
    }


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("group_images", [2, 4, 8, 16])
def test_groups_on_any_number_of_processes_equal_torchs_batch_norm_of_each_group(group_images, count):
    reference = by_torch(group_images)
    results = run_distributed(count, _by_ours, group_images, count)
    for name, expected in reference.items():
        parts = torch.stack([result[name] for result in results])
        if name in ("output", "input gradient"):
            value = parts.flatten(0, 1)
        elif "gradient" in name:
            value = parts.sum(0)  # parameters get their own rows' part
        else:
            value = parts[-1]
        assert relative_error(value, expected) < 1e-11, name


def test_gradients_are_those_of_finite_differences():
    norm = with_parameters(GroupedBatchNorm(CHANNELS, statistics=StatisticsGroup(local_groups=2)))
    x = torch.randn(8, CHANNELS, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: norm(x).sin(), (x,))


@pytest.mark.parametrize(("group_images", "processes", "local_groups", "spans"), [
    (0, 1, 1, False), (0, 4, 1, True), (16, 4, 1, True), (8, 2, 1, False), (4, 2, 2, False), (8, 4, 1, True),
])  # fmt: skip
def test_groups_map_onto_processes(group_images, processes, local_groups, spans):
    group = divide_batch_norm(group_images, IMAGES, processes, make_groups=False)
    assert (group.local_groups, group.spans_processes) == (local_groups, spans)


def test_a_mapping_that_cuts_through_groups_is_refused():
    with pytest.raises(ValueError, match=r"groups of 6 images .* 3 processes of 8"):
        divide_batch_norm(6, 24, 3)


def test_rows_that_do_not_divide_into_groups_are_refused():
    with pytest.raises(ValueError, match="9 rows"):
        GroupedBatchNorm(CHANNELS, statistics=StatisticsGroup(local_groups=2))(torch.randn(9, CHANNELS))


@pytest.mark.parametrize("local_groups", [1, 4])
def test_one_value_of_a_channel_in_a_group_is_refused_whatever_the_number_of_groups_here(local_groups):
    norm = GroupedBatchNorm(CHANNELS, statistics=StatisticsGroup(local_groups=local_groups))
    with pytest.raises(UserError, match=r"recipe\.batch_norm_group_images: .* one value of each in a group"):
        norm(torch.randn(local_groups, CHANNELS))
    assert norm(torch.randn(local_groups, CHANNELS, 1, 2)).shape == (local_groups, CHANNELS, 1, 2)
    assert norm.eval()(torch.randn(local_groups, CHANNELS)).shape == (local_groups, CHANNELS)


def test_evaluation_uses_the_running_statistics_whatever_the_groups():
    torch.manual_seed(0)
    x = torch.randn(6, CHANNELS, 2, 2)
    norm, plain = GroupedBatchNorm(CHANNELS, statistics=StatisticsGroup(local_groups=2)), nn.BatchNorm2d(CHANNELS)
    norm(x)
    plain.load_state_dict(norm.state_dict())
    assert torch.equal(norm.eval()(x), plain.eval()(x))


def test_without_offset_there_is_no_bias_parameter():
    norm = GroupedBatchNorm(CHANNELS, bias=False, statistics=StatisticsGroup(local_groups=2))
    assert [name for name, _ in norm.named_parameters()] == ["weight"]
    assert norm(torch.randn(4, CHANNELS)).mean(0).abs().max() < 1e-6


def test_half_precision_is_summed_in_float32():
    torch.manual_seed(0)
    x = 100 + torch.randn(512, CHANNELS)
    norm = GroupedBatchNorm(CHANNELS, statistics=StatisticsGroup(local_groups=2))
    assert norm(x.bfloat16()).dtype == torch.bfloat16
    assert torch.allclose(norm.running_mean, 0.1 * x.bfloat16().float().mean(0), rtol=1e-5)


def float32_and_float64(x: torch.Tensor, factors: torch.Tensor, groups: int) -> list[dict[str, torch.Tensor]]:
    """Everything that batch norm makes of the float32 ``x`` in its layout, and of the same numbers in float64."""
    made = []
    for inputs in (x, x.double()):
        inputs = inputs.detach().requires_grad_()
        norm = GroupedBatchNorm(x.shape[1], momentum=1.0, statistics=StatisticsGroup(local_groups=groups))
        norm = norm.to(inputs.dtype)
        y = norm(inputs)
        (y * factors).sum().backward()
        made.append({
            "output": y.detach(), "input gradient": inputs.grad, "running mean": norm.running_mean,
            "running variance": norm.running_var, "bias gradient": norm.bias.grad, "weight gradient": norm.weight.grad,
        })  # fmt: skip
    return made


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize(("shape", "layout"), [
    ((256, 16, 16, 16), "rows"), ((256, 16, 16, 16), "channels_last"), ((202, 8, 13, 17), "channels_last"),
    ((8192, 128), "rows"), ((8192, 128, 1, 1), "channels_last"), ((8192, 16, 5), "moved"),
])  # fmt: skip
def test_float32_is_as_exact_in_every_memory_layout(shape, layout, groups):
    # torch's kernel is off by 1e-6 to 7e-6 where it adds rows one after the other.
    generator = torch.Generator().manual_seed(0)
    x, factors = (2 * torch.randn(shape, generator=generator) + 1 for _ in range(2))
    if layout == "channels_last":
        x, factors = (tensor.contiguous(memory_format=torch.channels_last) for tensor in (x, factors))
    elif layout == "moved":
        x, factors = (tensor.movedim(1, -1).contiguous().movedim(-1, 1) for tensor in (x, factors))
    made, expected = float32_and_float64(x, factors, groups)
    for name in expected:
        bound = 1e-5 if name == "weight gradient" else 2e-7  # a sum whose terms cancel
        assert relative_error(made[name], expected[name]) < bound, name


def test_a_gradient_of_another_layout_than_the_input_is_taken_as_it_is():
    x, factors = (tensor.float().contiguous(memory_format=torch.channels_last) for tensor in inputs())
    expected, made = (float32_and_float64(x, gradient, 2) for gradient in (factors, factors.contiguous()))
    for name in expected[0]:
        assert relative_error(made[0][name], expected[0][name]) < 1e-6, name
    y = GroupedBatchNorm(CHANNELS)(x.requires_grad_())
    assert y.is_contiguous(memory_format=torch.channels_last)


def test_a_number_of_rows_that_nothing_divides_is_normalised_too():
    x = torch.randn(1009, CHANNELS, generator=torch.Generator().manual_seed(0))
    made, expected = float32_and_float64(x, x.sin(), 1)
    assert relative_error(made["output"], expected["output"]) < 2e-7


@pytest.mark.parametrize("shape", [(512, 1), (64, 1, 8, 8)])
def test_one_channel_is_normalised_as_many_are(shape):
    x, factors = (torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    made, expected = float32_and_float64(x, factors, 2)
    for name in expected:
        assert relative_error(made[name], expected[name]) < 2e-6, name


def test_maps_of_two_sizes_go_through_one_norm_in_a_step():
    # The first of them to torch's own kernel, the second one not: its running statistics move before the backward pass.
    norm = GroupedBatchNorm(128, momentum=0.5)
    large, small = (
        torch.randn(shape, generator=torch.Generator().manual_seed(0)) for shape in ((64, 128, 2, 2), (512, 128, 1, 1))
    )
    (norm(large).square().sum() + norm(small).sum()).backward()
    means = [each.movedim(1, 0).flatten(1).mean(1) for each in (large, small)]
    assert torch.allclose(norm.running_mean, means[0] / 4 + means[1] / 2, atol=1e-6)


def test_buffers_are_copied_in_one_call_a_type(monkeypatch):
    copy, calls = torch._foreach_copy_, []
    monkeypatch.setattr(torch, "_foreach_copy_", lambda into, values: calls.append(into) or copy(into, values))
    norms = nn.ModuleList(GroupedBatchNorm(CHANNELS) for _ in range(3))
    buffers = list(norms.buffers())
    copies = [torch.full_like(buffer, 7) for buffer in buffers]
    copy_all(buffers, copies)
    assert all(torch.equal(*pair) for pair in zip(buffers, copies, strict=True))
    assert sorted(len(into) for into in calls) == [3, 6]
    assert all(len({tensor.dtype for tensor in into}) == 1 for into in calls)
    copy_all([], [])
