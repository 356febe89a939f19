"""MoCo v1 and v2 against facebookresearch/moco: loss, queue, momentum, and whole steps on one and two processes."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from simclr_dist.config import load_config
from simclr_dist.data.loading.batch import Batch
from simclr_dist.distributed.collectives import process_count, process_rank
from simclr_dist.distributed.data_parallel import data_parallel
from simclr_dist.errors import UserError
from simclr_dist.methods.moco import MoCo
from simclr_dist.models.batch_norm import average_running_statistics
from simclr_dist.models.statistics_group import StatisticsGroup
from simclr_dist.training.gradients import compute_gradients
from tests.support.golden import ToyParts, golden, tensor, toy_recipe
from tests.support.processes import relative_error, run_distributed

GOLDEN = golden("moco")
EXACT = 1e-10


def toy(keys: int, dim: int = 8, images: int = 8, group: int = 0, local_groups: int = 1, **options: Any) -> MoCo:
    make = ToyParts(toy_recipe(images, group), StatisticsGroup(local_groups))
    return MoCo(MoCo.Config(queue_keys=keys, output_dim=dim, **options), make, images).double()


def batch_of(views: Tensor) -> Batch:
    return Batch(views={"global": views}, samples=torch.from_numpy(np.arange(len(views))), epoch=0, seed=0)


@pytest.mark.parametrize("record", GOLDEN["info_nce"])
def test_loss_gradient_and_queue_are_those_of_the_authors(record):
    q, k = tensor(record["q"]).requires_grad_(), tensor(record["k"])
    queue = tensor(record["queue_before"]).T.contiguous()
    method = toy(len(queue), queue.shape[1], temperature=record["temperature"])
    method.queue.copy_(queue)
    embeddings, targets = {"q": F.normalize(q, dim=1)[:, None]}, {"k": F.normalize(k, dim=1)[:, None]}
    outputs = method.loss(embeddings, targets, batch_of(torch.zeros(len(q), 2, 6)))
    outputs["loss"].backward()
    assert float(outputs["loss"].detach()) == pytest.approx(record["loss"], rel=EXACT)
    assert relative_error(q.grad, tensor(record["gradient_q"])) < EXACT
    method.after_update({}, targets, batch_of(torch.zeros(len(q), 2, 6)), 0, 1)
    assert relative_error(method.queue.T, tensor(record["queue_after"])) < EXACT
    assert int(method.queue_next) == record["queue_ptr_after"]


def test_the_queue_takes_keys_in_order_and_wraps_as_the_authors_does():
    (record,) = GOLDEN["queue"]
    method = toy(record["K"])
    method.queue.copy_(tensor(record["start"]).T)
    for step in record["steps"]:
        keys = tensor(step["keys"])
        method.after_update({}, {"k": keys[:, None]}, batch_of(torch.zeros(len(keys), 2, 6)), 0, 1)
        assert relative_error(method.queue.T, tensor(step["queue"])) < EXACT
        assert int(method.queue_next) == step["queue_ptr"]


def test_a_queue_that_global_batches_do_not_divide_wraps_within_one():
    method = toy(10)
    batches = [F.normalize(torch.randn(4, 8, dtype=torch.float64), dim=1) for _ in range(3)]
    for keys in batches:
        method.after_update({}, {"k": keys[:, None]}, batch_of(torch.zeros(4, 2, 6)), 0, 1)
    newest = torch.cat(batches)[-10:]
    assert torch.equal(method.queue.roll(-2, 0), newest)


@pytest.mark.parametrize("record", GOLDEN["momentum_update"])
def test_the_keys_encoder_follows_in_its_parameters_and_keeps_its_own_running_statistics(record):
    method = toy(8, 4, momentum=record["m"], head="linear")
    for modules, name in (
        ((method.encoder, method.projection), "encoder_q"),
        ((method.key_encoder, method.key_projection), "encoder_k"),
    ):
        load(*modules, record[name])
    for name in ("encoder_k_after_1", "encoder_k_after_2"):
        method.after_update({}, {"k": torch.zeros(4, 1, 4)}, batch_of(torch.zeros(4, 2, 6)), 0, 1)
        for key, value in saved(method.key_encoder, method.key_projection).items():
            assert (value - tensor(record[name][key])).norm() < EXACT, key


def load(encoder: nn.Module, head: nn.Module, state: dict[str, Any]) -> None:
    own = dict(encoder.named_parameters()) | dict(encoder.named_buffers())
    with torch.no_grad():
        for key, value in state.items():
            target = head_tensor(head, key) if key.startswith("fc.") else own[key]
            target.copy_(tensor(value))


def head_tensor(head: nn.Module, key: str) -> Tensor:
    return next(p for name, p in head.named_parameters() if published(head, name) == key)


def published(head: nn.Module, name: str) -> str:
    """Of a head of one layer linear_1 is fc there, of two layers linear_1 is fc.0 and linear_2 fc.2."""
    if not hasattr(head, "linear_2"):
        return name.replace("linear_1", "fc")
    return name.replace("linear_1", "fc.0").replace("linear_2", "fc.2")


def saved(encoder: nn.Module, head: nn.Module) -> dict[str, Tensor]:
    found = {
        key: value.clone() for key, value in encoder.state_dict().items() if not key.endswith("num_batches_tracked")
    }
    for key, value in head.named_parameters():
        found[published(head, key)] = value.detach().clone()
    return found


def walk(record: dict[str, Any]) -> list[dict[str, Any]]:
    """The record's steps, on the processes that are here: after each loss, gradients, queue; then the weights."""
    images, processes = len(record["images_q"][0]), record["processes"]
    group = images // processes if processes > 1 else 0
    method = toy(
        record["K"], 4, images, group, local_groups=processes // process_count(),
        temperature=record["temperature"], momentum=record["m"],
    )  # fmt: skip
    load(method.encoder, method.projection, record["start_encoder"])
    load(method.key_encoder, method.key_projection, record["start_encoder"])
    method.queue.copy_(tensor(record["start_queue"]).T)
    parallel = data_parallel(method, torch.device("cpu"))
    trained = [parameter for parameter in method.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, **record["sgd"])
    found = []
    for number, step in enumerate(record["per_process"][0]):
        method.shuffle.permutation = lambda _, step=step: torch.tensor(step["shuffle"])
        views = torch.stack((tensor(record["images_q"][number]), tensor(record["images_k"][number])), dim=1)
        own = batch_of(views.chunk(process_count())[process_rank()])
        computed = compute_gradients(method, parallel, own)
        gradients = {"loss": computed.outputs["loss"].detach(), **gradients_of(method)}
        optimizer.step()
        optimizer.zero_grad()
        if group:
            average_running_statistics(method)
        followed = saved(method.key_encoder, method.key_projection)
        with torch.no_grad():
            method.after_update(computed.embeddings, computed.targets, computed.batch, number, 4)
        found.append({**gradients, "queue": method.queue.T.clone(), "queue_ptr": int(method.queue_next)})
    # The authors' keys' encoder moves in the step that follows; the last move has not come there.
    return [*found, {"q": saved(method.encoder, method.projection), "k": followed}]


def gradients_of(method: MoCo) -> dict[str, Tensor]:
    body = {key: parameter.grad for key, parameter in method.encoder.named_parameters()}
    head = {published(method.projection, key): p.grad for key, p in method.projection.named_parameters()}
    return {key: gradient.clone() for key, gradient in {**body, **head}.items()}


@pytest.mark.parametrize(("record", "processes"), [(0, 1), (1, 1), (1, 2)])
def test_whole_steps_are_those_of_the_authors_whatever_the_number_of_processes(record, processes):
    """The authors' run on two processes is a recipe with batch-norm groups of half a batch, on any number of them."""
    told = GOLDEN["training"][record]
    for *steps, ends in run_distributed(processes, walk, told) if processes > 1 else [walk(told)]:
        for number, found in enumerate(steps):
            expected = told["per_process"][0][number]
            losses = [process[number]["loss"] for process in told["per_process"]]
            assert float(found["loss"]) == pytest.approx(sum(losses) / len(losses), rel=EXACT)
            for key, gradient in expected["averaged_gradient"].items():
                assert (found[key] - tensor(gradient)).norm() < EXACT, key
            assert relative_error(found["queue"], tensor(expected["queue"])) < EXACT
            assert found["queue_ptr"] == expected["queue_ptr"]
        for encoder in ("q", "k"):
            for key, value in ends[encoder].items():
                mean = torch.stack([tensor(end[key]) for end in told[f"end_encoder_{encoder}"]]).mean(0)
                assert (value - mean).norm() < EXACT * max(1.0, float(mean.norm())), (encoder, key)


def test_a_symmetric_loss_is_the_mean_of_both_directions_and_the_queue_takes_the_keys_of_both_views():
    views = torch.randn(8, 2, 6, dtype=torch.float64)
    both = toy(32, images=8, group=4, local_groups=2, symmetric=True)
    batch = both.prepare(batch_of(views))
    embeddings, targets = both.embed(batch), both.targets(batch)
    loss = both.loss(embeddings, targets, batch)["loss"].detach()
    assert relative_error(loss, both.reference_loss(embeddings, targets, batch).detach()) < EXACT
    losses, keys = [], []
    for direction in (views, views.flip(1)):
        one = toy(32, images=8, group=4, local_groups=2)
        one.load_state_dict(both.state_dict())
        batch = one.prepare(batch_of(direction))
        found = one.targets(batch)
        losses.append(one.loss(one.embed(batch), found, batch)["loss"].detach())
        keys.append(one.shuffle.in_order(found["k"], batch)[:, 0])
    assert relative_error(loss, torch.stack(losses).mean()) < EXACT
    both.after_update({}, targets, batch, 0, 1)
    assert relative_error(both.queue[:16], torch.cat(keys)) < EXACT


def test_a_queue_smaller_than_the_global_batch_is_refused():
    with pytest.raises(UserError, match=r"recipe\.method\.queue_keys: 64 keys do not hold the 128 .* raise it"):
        load_config("digits_demo", ["recipe.method.name=moco", "recipe.method.queue_keys=64"])
