"""DenseCL against WXinlong/DenseCL: loss, gradient, both queues and the key encoder, on one and two processes."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from simclr_dist.config import load_config
from simclr_dist.data.loading.batch import Batch
from simclr_dist.distributed.collectives import process_count, process_rank
from simclr_dist.errors import UserError
from simclr_dist.methods.densecl import DenseCL
from simclr_dist.models.follower import follow
from tests.support.golden import ToyParts, golden, tensor, toy_recipe
from tests.support.processes import relative_error, run_distributed

RECORDS = golden("dense")["densecl"]
EXACT = 1e-10


class MapEncoder(nn.Module):
    """A 1x1 convolution and ReLU: (rows, 3, h, w) to maps (rows, 5, h, w)."""

    output_dim = 5

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, self.output_dim, 1)

    def map(self, images: Tensor) -> Tensor:
        maps: Tensor = self.conv(images).relu()
        return maps

    def pool(self, maps: Tensor) -> Tensor:
        return maps.mean((2, 3))


class MapParts(ToyParts):
    def encoder(self) -> Any:
        return MapEncoder()

    def mlp(self, sizes: Any, **options: Any) -> nn.Sequential:
        return super().mlp((5, 6, 4), **options)


def load(encoder: nn.Module, heads: nn.Module, record: dict[str, Any], prefix: str = "") -> None:
    renamed = {
        "0.conv": encoder.conv, "1.mlp.0": heads.pooled.linear_1, "1.mlp.2": heads.pooled.linear_2,
        "1.mlp2.0": heads.dense.linear_1, "1.mlp2.2": heads.dense.linear_2,
    }  # fmt: skip
    with torch.no_grad():
        for name, layer in renamed.items():
            layer.weight.copy_(tensor(record[f"{prefix}{name}.weight"]).view_as(layer.weight))
            layer.bias.copy_(tensor(record[f"{prefix}{name}.bias"]))


def step_of(record: dict[str, Any]) -> dict[str, Any]:
    """Of this process's images: the authors move the key encoder before the keys, here with the step before."""
    size = len(record["start"]["queue"][0])
    keys = {"dense_weight": record["loss_lambda"], "temperature": record["temperature"], "momentum": record["momentum"]}
    images = tensor(record["images"])
    make = MapParts(toy_recipe(len(images)))
    method = DenseCL(DenseCL.Config(queue_keys=size, output_dim=4, **keys), make, size).double()
    load(method.encoder, method.projection, record["start"], "encoder_q.")
    load(method.key_encoder, method.key_projection, record["start"], "encoder_k.")
    method.queue.copy_(tensor(record["start"]["queue"]).T)
    method.dense_queue.copy_(tensor(record["start"]["queue2"]).T)
    follow(method.key_encoder, method.encoder, record["momentum"])
    follow(method.key_projection, method.projection, record["momentum"])
    own = images.tensor_split(process_count())[process_rank()]
    batch = Batch(views={"global": own}, samples=torch.arange(len(own)), epoch=0, seed=0)
    batch = method.prepare(batch)
    with torch.no_grad():
        targets = method.targets(batch)
    embeddings = method.embed(batch)
    outputs = method.loss(embeddings, targets, batch)
    outputs["loss"].backward()
    key_encoder = [each.clone() for each in (*method.key_encoder.parameters(), *method.key_projection.parameters())]
    with torch.no_grad():
        method.after_update({}, targets, batch, 0, 1)
    trained = (*method.encoder.parameters(), *method.projection.parameters())
    return {
        "loss": outputs["loss"].detach(), "dense_loss": outputs["dense_loss"], "queue": method.queue,
        "dense_queue": method.dense_queue, "gradient": [each.grad for each in trained], "key_encoder": key_encoder,
    }  # fmt: skip


def as_parameters(record: dict[str, Any]) -> list[Tensor]:
    method = DenseCL(DenseCL.Config(queue_keys=8, output_dim=4), MapParts(toy_recipe(3)), 8).double()
    load(method.encoder, method.projection, record)
    return [*method.encoder.parameters(), *method.projection.parameters()]


@pytest.mark.parametrize("record", RECORDS)
def test_loss_gradient_queues_and_key_encoder_are_those_of_the_authors(record):
    found = step_of(record)
    expected = record["loss_single_weighted"] + record["loss_dense_weighted"]
    assert float(found["loss"]) == pytest.approx(expected, rel=EXACT)
    assert float(found["dense_loss"]) * record["loss_lambda"] == pytest.approx(record["loss_dense_weighted"], rel=EXACT)
    assert relative_error(found["queue"].T, tensor(record["queue_after"])) < EXACT
    assert relative_error(found["dense_queue"].T, tensor(record["queue2_after"])) < EXACT
    for name, told in (("gradient", "gradient"), ("key_encoder", "encoder_k_after")):
        own, theirs = (torch.cat([each.flatten() for each in of]) for of in (found[name], as_parameters(record[told])))
        assert relative_error(own, theirs) < EXACT


def _of_all() -> list[dict[str, Any]]:
    return [step_of(record) for record in RECORDS]


def test_three_processes_with_an_image_each_take_the_same_step():
    """The record has three images; the mean over processes of the gradients is the record's."""
    found = run_distributed(3, _of_all)
    for number, record in enumerate(RECORDS):
        expected = torch.cat([each.flatten() for each in as_parameters(record["gradient"])])
        of_processes = [torch.cat([each.flatten() for each in one[number]["gradient"]]) for one in found]
        assert relative_error(torch.stack(of_processes).mean(0), expected) < EXACT
        for one in found:
            assert relative_error(one[number]["dense_queue"].T, tensor(record["queue2_after"])) < EXACT


def test_a_queue_below_a_global_batch_is_refused_with_the_cure():
    with pytest.raises(UserError, match=r"queue_keys: 8 keys do not hold the .* raise it"):
        load_config("digits_demo", ["recipe.method.name=densecl", "recipe.method.queue_keys=8"])
