"""Gradients clipped tensor by tensor: by itself, and in a step of a recipe that asks for it."""

import pytest
import torch

from simclr_dist.data.loading.batch import blank_batch
from simclr_dist.optim.clipping import clip_each
from tests.support.processes import tiny_config
from tests.support.steps import training_step

LIMIT = 0.01


def test_each_parameters_gradient_is_clipped_by_itself_as_dinos_code_does():
    long, short, none = (torch.zeros(4, requires_grad=True) for _ in range(3))
    long.grad, short.grad = torch.full((4,), 3.0), torch.full((4,), 1.0)
    clip_each([long, short, none], 3.0)
    assert torch.equal(long.grad, torch.full((4,), 3.0) * (3.0 / (6.0 + 1e-6)))
    assert torch.equal(short.grad, torch.full((4,), 1.0))
    assert none.grad is None


def test_no_tensor_moves_further_in_a_step_than_the_rate_times_the_recipes_limit(tmp_path):
    config = tiny_config(
        tmp_path, "recipe.optimizer.name=sgd", "recipe.optimizer.weight_decay=0", "recipe.warmup_epochs=0",
        "recipe.optimizer.base_learning_rate=1", f"recipe.optimizer.clip_gradient_norm={LIMIT}",
    )  # fmt: skip
    step = training_step(config, 64)
    before = [parameter.detach().clone() for parameter in step.method.parameters()]
    batch = blank_batch(config.recipe, 32, torch.device("cpu"))
    batch.views["global"].random_(generator=torch.Generator().manual_seed(0))
    metrics = step(batch, 0)
    moved = torch.stack([(new - old).norm() for new, old in zip(step.method.parameters(), before, strict=True)])
    assert float(moved.max().detach()) == pytest.approx(LIMIT, rel=1e-3)
    assert metrics["gradient_norm"] > LIMIT  # as it was before
