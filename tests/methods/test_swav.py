"""SwAV against facebookresearch/swav: assignments, whole steps with multi-crop, queue and frozen prototypes."""

from typing import Any

import pytest
import torch
from torch import nn

from simclr_dist.config import load_config
from simclr_dist.data.loading.batch import Batch
from simclr_dist.distributed.collectives import process_count, process_rank
from simclr_dist.distributed.data_parallel import data_parallel
from simclr_dist.errors import UserError
from simclr_dist.losses.sinkhorn import sinkhorn
from simclr_dist.methods.swav import SwAV
from simclr_dist.optim.rates import Moment, parameter_groups, set_rates
from simclr_dist.training.gradients import compute_gradients
from tests.support.golden import ToyParts, golden, tensor, toy_recipe
from tests.support.processes import relative_error, run_distributed

GOLDEN = golden("swav")
EXACT = 1e-10


class Body(nn.Module):
    """The records' network in place of an encoder: one linear layer, without a bias."""

    output_dim = 8

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(8, 8, bias=False)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return self.body(rows)


def toy(record: dict[str, Any]) -> SwAV:
    keys = SwAV.Config(
        prototypes=len(record["start"]["prototypes.weight"]), output_dim=8, small_views=sum(record["nmb_crops"]) - 2,
        frozen_steps=record["freeze_prototypes_niters"], queue_keys=record["queue_length"], queue_from_epoch=0,
        temperature=record["temperature"], epsilon=record["epsilon"], sinkhorn_iterations=record["iterations"],
    )  # fmt: skip
    method = SwAV(keys, ToyParts(toy_recipe(4)), 4)
    method.encoder, method.projection = Body(), nn.Identity()
    method = method.double()
    with torch.no_grad():
        method.encoder.body.weight.copy_(tensor(record["start"]["body.weight"]))
        # The authors normalise them before the first step.
        method.prototypes.weight.copy_(nn.functional.normalize(tensor(record["start"]["prototypes.weight"]), dim=1))
    return method


def batch_of(crops: torch.Tensor, epoch: int = 0) -> Batch:
    """Of crops (views, images, d)."""
    views = {"global": crops[:2].transpose(0, 1), "small": crops[2:].transpose(0, 1)}
    views = {name: each for name, each in views.items() if each.shape[1]}
    return Batch(views=views, samples=torch.arange(crops.shape[1]), epoch=epoch, seed=0)


def walk() -> dict[str, Any]:
    """Own rows of the records' assignments, and all steps of the records' runs, on the processes that are here."""
    rows = [
        tensor(record["scores"]).to(getattr(torch, record["dtype"])).chunk(process_count())[process_rank()]
        for record in GOLDEN["sinkhorn"]
    ]
    records = zip(rows, GOLDEN["sinkhorn"], strict=True)
    return {
        "assignments": [sinkhorn(own, record["epsilon"], record["iterations"]) for own, record in records],
        "steps": [_steps(record) for record in GOLDEN["training"]],
    }


def _steps(record: dict[str, Any]) -> list[dict[str, Any]]:
    method = toy(record)
    parallel = data_parallel(method, torch.device("cpu"))
    rates = method.rates()
    optimizer = torch.optim.SGD(parameter_groups(method, 0.0, rates), lr=record["sgd_rate"])
    found = []
    for number, crops in enumerate(record["crops"]):
        batch = batch_of(tensor(crops).chunk(process_count(), dim=1)[process_rank()])
        computed = compute_gradients(method, parallel, batch)
        moment = Moment(step=number, steps=9, steps_per_epoch=9, scheduled=record["sgd_rate"], peak=1.0)
        set_rates(optimizer, rates, moment)
        frozen = method.prototypes.weight.grad is None
        step = {
            "loss": computed.outputs["loss"],
            "gradient_prototypes": None if frozen else method.prototypes.weight.grad.clone(),
            "gradient_body": method.encoder.body.weight.grad.clone(),
        }
        optimizer.step()
        optimizer.zero_grad()
        step |= {"prototypes": method.prototypes.weight.detach().clone()}
        step |= {"body": method.encoder.body.weight.detach().clone()}
        with torch.no_grad():
            method.after_update(computed.embeddings, computed.targets, computed.batch, number, 9)
        found.append(step | {"queue": method.queue.clone() if record["queue_length"] else None})
    return found


@pytest.mark.parametrize("processes", [1, 2])
def test_assignments_and_whole_steps_are_those_of_the_authors_whatever_the_number_of_processes(processes):
    found = run_distributed(processes, walk) if processes > 1 else [walk()]
    for number, record in enumerate(GOLDEN["sinkhorn"]):
        together = torch.cat([each["assignments"][number] for each in found])
        bound = EXACT if record["dtype"] == "float64" else 1e-5
        assert relative_error(together, tensor(record["assignments"])) < bound
    for number, record in enumerate(GOLDEN["training"]):
        for of_process in found:
            for own, told in zip(of_process["steps"][number], record["steps"], strict=True):
                assert float(own.pop("loss")) == pytest.approx(told["loss"], rel=EXACT)
                for name, value in own.items():
                    assert (value is None) == (told[name] is None), name
                    if value is not None:
                        assert relative_error(value, tensor(told[name])) < EXACT, (record["name"], name)


def test_prototypes_have_unit_length_after_an_update_and_the_queue_waits_for_its_epoch():
    record = next(record for record in GOLDEN["training"] if record["queue_length"])
    method = toy(record)
    method.config.queue_from_epoch = 2
    z = {"z": nn.functional.normalize(torch.randn(4, 5, 8, dtype=torch.float64), dim=2)}
    with torch.no_grad():
        method.prototypes.weight.mul_(3)
        for epoch, filled in ((1, 0), (2, 4), (2, 8), (3, 12), (3, 12)):
            method.after_update(z, {}, batch_of(tensor(record["crops"][0]), epoch), 0, 9)
            assert int(method.queue_filled) == filled
    assert torch.allclose(method.prototypes.weight.norm(dim=1), tensor([1.0]), atol=1e-14)


def test_loss_and_assignments_with_a_full_queue_are_the_plain_reference():
    record = next(record for record in GOLDEN["training"] if record["queue_length"])
    method = toy(record)
    method.queue.copy_(nn.functional.normalize(torch.randn(method.queue.shape, dtype=torch.float64), dim=2))
    method.queue_filled.fill_(record["queue_length"])
    batch = batch_of(tensor(record["crops"][0]))
    embeddings = method.embed(batch)
    loss, plain = method.loss(embeddings, {}, batch)["loss"], method.reference_loss(embeddings, {}, batch)
    assert relative_error(loss.detach(), plain.detach()) < EXACT


def test_assignments_stay_finite_where_half_precision_would_overflow():
    scores = torch.tensor([[1.0, -1.0, 0.9], [1.0, -1.0, -1.0], [-1.0, 1.0, 1.0]]).half()
    shares = sinkhorn(scores, 0.01, 3)
    assert torch.isfinite(shares).all()
    assert torch.allclose(shares.sum(1), torch.ones(3, dtype=torch.float64))


def test_small_views_larger_than_the_whole_ones_are_refused_first_with_a_value_that_fits_and_the_other_choice():
    swav = "recipe.method.name=swav"
    with pytest.raises(
        UserError,
        match=r"views of 96 pixels, whole ones of 16; set recipe\.views\.small\.size=8, or .*small_views=0",
    ):
        load_config("digits_demo", [swav])  # whose crop_area_min, every group's, is above that of small crops
    with pytest.raises(UserError, match=r"set recipe\.views\.small\.size=12,"):
        load_config("digits_demo", [swav, "recipe.data.image_size=28"])
    bounds = ["recipe.views.small.crop_area_min=0.1", "recipe.views.small.crop_area_max=0.3"]
    cured = load_config("digits_demo", [swav, "recipe.views.small.size=8", *bounds]).recipe.views
    assert (cured["small"].size, cured["small"].crop_area_max) == (8, 0.3)
    assert list(load_config("digits_demo", [swav, "recipe.method.small_views=0"]).recipe.views) == ["global"]
