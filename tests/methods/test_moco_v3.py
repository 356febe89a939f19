"""MoCo v3 against facebookresearch/moco-v3: loss, gradient, momentum by step, whole steps on one and two processes."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from simclr_dist.config import load_config
from simclr_dist.data.loading.batch import Batch
from simclr_dist.distributed.collectives import process_count, process_rank
from simclr_dist.distributed.data_parallel import data_parallel
from simclr_dist.methods.build import build_method
from simclr_dist.methods.moco_v3 import MoCoV3
from simclr_dist.models.batch_norm import average_running_statistics
from simclr_dist.models.follower import rising_momentum
from simclr_dist.models.statistics_group import divide_batch_norm
from simclr_dist.optim import LARS, parameter_groups
from simclr_dist.training.gradients import compute_gradients
from tests.support.golden import ToyParts, golden, tensor, toy_recipe
from tests.support.methods import method_config
from tests.support.processes import relative_error, run_distributed

GOLDEN = golden("moco_v3")
(TRAINING,) = GOLDEN["training"]
EXACT = 1e-10
OWN_NAMES = {"base_encoder.": "encoder.", "momentum_encoder.": "key_encoder.", "predictor.": "predictor."}
HEADS = {"base_encoder.fc.": "projection.", "momentum_encoder.fc.": "key_projection.", "predictor.": "predictor."}
LAYERS = {"0": "linear_1", "1": "norm_1", "3": "linear_2", "4": "norm_2"}


def toy(**options: Any) -> MoCoV3:
    config = MoCoV3.Config(hidden_dim=6, output_dim=4, **options)
    return MoCoV3(config, ToyParts(toy_recipe(8), divide_batch_norm(0, 8, process_count())), 8).double()


def batch_of(first: Tensor, second: Tensor) -> Batch:
    """This process's share of rows (images, 6) of either view."""
    views = {"first": first[:, None], "second": second[:, None]}
    own = {name: rows.chunk(process_count())[process_rank()] for name, rows in views.items()}
    return Batch(views=own, samples=torch.from_numpy(np.arange(len(own["first"]))), epoch=0, seed=0)


def own_name(published: str) -> str:
    for prefix, own in HEADS.items():
        layer, _, rest = published.removeprefix(prefix).partition(".")
        if published.startswith(prefix) and layer in LAYERS:
            return f"{own}{LAYERS[layer]}.{rest}"
    prefix = next(each for each in OWN_NAMES if published.startswith(each))
    return OWN_NAMES[prefix] + published.removeprefix(prefix)


def one_direction(record: dict[str, Any], q: Tensor, k: Tensor) -> tuple[float, Tensor]:
    """The loss of q against k and its gradient: half the sum of both directions, where both views are the same."""
    method = toy(temperature=record["temperature"])
    queries, keys = (rows[:, None].repeat(1, 2, 1) for rows in (q, k))
    queries.requires_grad_()
    outputs = method.loss({"q": queries}, {"k": keys}, batch_of(q, q))
    outputs["loss"].backward()
    return float(outputs["loss"].detach()) / 2, queries.grad[:, 0]


def walk() -> dict[str, Any]:
    """The record's steps on the processes that are here, and the loss of two processes if they are two."""
    method = toy(temperature=TRAINING["temperature"], momentum=TRAINING["base_momentum"])
    state = {own_name(key): tensor(value) for key, value in TRAINING["start"].items()}
    missing, unexpected = method.load_state_dict(state, strict=False)
    assert not unexpected
    assert all(key.endswith("num_batches_tracked") for key in missing)
    parallel = data_parallel(method, torch.device("cpu"))
    keys = TRAINING["lars"]
    optimizer = LARS(
        parameter_groups(method, keys["weight_decay"]), lr=0.0, momentum=keys["momentum"],
        trust_coefficient=keys["trust_coefficient"], classic_momentum=False, trust_in_momentum=True,
    )  # fmt: skip
    losses, gradients = [], []
    for number, step in enumerate(TRAINING["steps"]):
        batch = batch_of(*(tensor(TRAINING[view][number]) for view in ("view_1", "view_2")))
        computed = compute_gradients(method, parallel, batch)
        losses.append(float(computed.outputs["loss"].detach()))
        gradients.append({key: p.grad.clone() for key, p in method.named_parameters() if p.grad is not None})
        for group in optimizer.param_groups:
            group["lr"] = step["learning_rate"]
        optimizer.step()
        optimizer.zero_grad()
        average_running_statistics(method)
        # The authors' keys' encoder moves in the step that follows; the last move has not come there.
        ends = {key: value.clone() for key, value in method.state_dict().items()}
        with torch.no_grad():
            step_number = round(step["epoch"] * 2)  # two steps an epoch
            steps = TRAINING["epochs"] * 2
            method.after_update(computed.embeddings, computed.targets, computed.batch, step_number, steps)
    alone = []
    for record in (each for each in GOLDEN["contrastive_loss"] if each["processes"] == process_count() > 1):
        own = (tensor(record[name]).chunk(process_count())[process_rank()] for name in ("q", "k"))
        alone.append(one_direction(record, *own))
    return {"losses": losses, "gradient": gradients[0], "ends": ends, "alone": alone}


@pytest.mark.parametrize("record", [each for each in GOLDEN["contrastive_loss"] if each["processes"] == 1])
def test_loss_and_gradient_of_a_direction_are_those_of_the_authors(record):
    loss, gradient = one_direction(record, tensor(record["q"]), tensor(record["k"]))
    assert loss == pytest.approx(record["loss"], rel=EXACT)
    assert relative_error(gradient, tensor(record["gradient_q"])) < EXACT


@pytest.mark.parametrize("processes", [1, 2])
def test_whole_steps_are_those_of_the_authors_whatever_the_number_of_processes(processes):
    of_processes = run_distributed(processes, walk) if processes > 1 else [walk()]
    for found in of_processes:
        assert found["losses"] == pytest.approx([step["loss"] for step in TRAINING["steps"]], rel=EXACT)
        for key, gradient in TRAINING["steps"][0]["gradient"].items():
            assert (found["gradient"][own_name(key)] - tensor(gradient)).norm() < EXACT, key
        for key, value in TRAINING["end"].items():
            assert (found["ends"][own_name(key)] - tensor(value)).norm() < EXACT, key
    for record in (each for each in GOLDEN["contrastive_loss"] if each["processes"] == processes > 1):
        losses, gradients = zip(*(found["alone"][0] for found in of_processes), strict=True)
        assert losses == pytest.approx([np.mean(record["loss_per_process"])] * processes, rel=EXACT)
        for gradient, told in zip(gradients, record["gradient_q_per_process"], strict=True):
            assert relative_error(gradient, tensor(told)) < EXACT


@pytest.mark.parametrize("record", GOLDEN["schedule"])
def test_the_momentum_is_that_of_the_authors_at_each_listed_epoch(record):
    for epoch, (_, momentum) in record["at_epoch"].items():
        found = rising_momentum(record["base_momentum"], round(float(epoch) * 100), record["epochs"] * 100)
        assert found == pytest.approx(momentum, abs=EXACT)


def test_the_views_are_byols_with_larger_crops():
    views = load_config("digits_demo", ["recipe.method.name=moco_v3"]).recipe.views
    assert list(views) == ["first", "second"]
    assert {view.crop_area_min for view in MoCoV3.views(MoCoV3.Config()).values()} == {0.2}


def test_heads_of_a_vit_have_three_layers_and_a_last_norm_without_gain_in_both(tmp_path):
    overrides = ("recipe.method.projector_layers=3", "recipe.method.predictor_last_norm=true")
    method = build_method(method_config("moco_v3", tmp_path, *overrides).recipe, images=8)
    kinds = [[type(layer).__name__ for layer in head] for head in (method.projection, method.predictor)]
    layer, norm = ["Linear", "GroupedBatchNorm", "ReLU"], ["Linear", "GroupedBatchNorm"]
    assert kinds == [[*layer, *layer, *norm], [*layer, *norm]]
    assert [head[-1].weight for head in (method.projection, method.predictor)] == [None, None]
