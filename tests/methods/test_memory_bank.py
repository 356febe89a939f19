"""The memory bank against zhirongw/lemniscate.pytorch: loss, gradient, Z and bank on one and two processes."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from simclr_dist.config import load_config
from simclr_dist.data.loading.batch import Batch
from simclr_dist.distributed.collectives import process_count, process_rank
from simclr_dist.errors import UserError
from simclr_dist.methods.memory_bank import MemoryBank
from tests.support.golden import ToyParts, golden, tensor, toy_recipe
from tests.support.processes import relative_error, run_distributed

GOLDEN = golden("memory_bank")
EXACT = 1e-10


def toy(bank: Any, **options: Any) -> MemoryBank:
    rows, dim = len(bank), len(bank[0])
    method = MemoryBank(MemoryBank.Config(output_dim=dim, **options), ToyParts(toy_recipe(4)), rows).double()
    method.bank.copy_(tensor(bank))
    return method


def batch_of(samples: list[int], epoch: int = 0) -> Batch:
    return Batch(views={"global": torch.zeros(len(samples), 1)}, samples=torch.tensor(samples), epoch=epoch, seed=0)


def one_step(method: MemoryBank, step: dict[str, Any], noise: Any) -> dict[str, Any]:
    """Of this process's share of a record's images; then the update."""
    f, samples, noise = (torch.tensor_split(each, process_count())[process_rank()] for each in (
        tensor(step["features"]), torch.tensor(step["index"]), noise
    ))  # fmt: skip
    f = f.clone().requires_grad_()
    batch, targets = batch_of(samples.tolist()), {"noise": noise}
    outputs = method.loss({"f": f}, targets, batch)
    outputs["loss"].backward()
    method.after_update({"f": f.detach()}, targets, batch, 0, 1)
    return {"loss": outputs["loss"].detach(), "gradient": f.grad / process_count(), "bank": method.bank.clone()}


def walk() -> list[Any]:
    """All records' steps on the processes that are here, and log Z after each."""
    found: list[Any] = []
    for record in GOLDEN["nce"]:
        keys = {"temperature": record["T"], "momentum": record["momentum"], "noise_samples": record["K"]}
        method = toy(record["memory_start"], **keys)
        for step in record["steps"]:
            found.append(one_step(method, step, torch.tensor(step["sampled"])[:, 1:]))
            found[-1]["Z"] = method.log_z.exp()
    for record in GOLDEN["softmax_full_bank"]:
        keys = {"temperature": record["T"], "momentum": record["momentum"], "noise_samples": 0}
        method = toy(record["memory_start"], loss="infonce", **keys)
        found.append(one_step(method, record, torch.empty(len(record["index"]), 0, dtype=torch.int64)))
    return found


@pytest.mark.parametrize("processes", [1, 2])
def test_loss_gradient_z_and_bank_are_those_of_the_authors_whatever_the_number_of_processes(processes):
    told = [step for record in GOLDEN["nce"] for step in record["steps"]] + GOLDEN["softmax_full_bank"]
    of_processes = run_distributed(processes, walk) if processes > 1 else [walk()]
    for expected, *found in zip(told, *of_processes, strict=True):
        for each in found:
            assert float(each["loss"]) == pytest.approx(expected["loss"], rel=EXACT)
            assert relative_error(each["bank"], tensor(expected["memory_after"])) < EXACT
            assert float(each.get("Z", 0)) == pytest.approx(expected.get("Z", 0), rel=EXACT)
        gradient = torch.cat([each["gradient"] for each in found])
        assert relative_error(gradient, tensor(expected["gradient"])) < EXACT


@pytest.mark.parametrize("record", GOLDEN["cmc_nce"], ids=lambda record: f"softmax={record['softmax']}")
def test_losses_z_and_banks_of_cmc_are_this_ones_with_the_two_banks_crossed(record):
    keys = {"temperature": record["T"], "momentum": record["momentum"], "noise_samples": record["K"]}
    keys["loss"] = "infonce" if record["softmax"] else "nce"
    noise = torch.tensor(record["sampled"])[:, 1:]
    for own, other in (("l", "ab"), ("ab", "l")):
        step = {"features": record[own], "index": record["index"]}
        against = toy(record[f"memory_{other}_start"], **keys)
        found = one_step(against, step, noise)
        assert float(found["loss"]) == pytest.approx(record[f"loss_{own}"], rel=EXACT)
        assert relative_error(found["gradient"], tensor(record[f"gradient_{own}"])) < EXACT
        if not record["softmax"]:
            assert float(against.log_z.exp()) == pytest.approx(record[f"Z_{own}"], rel=EXACT)
        moved = one_step(toy(record[f"memory_{own}_start"], **keys), step, noise)["bank"]
        assert relative_error(moved, tensor(record[f"memory_{own}_after"])) < EXACT


def test_the_noise_of_an_image_is_drawn_anew_each_epoch_whatever_the_chunk_and_over_all_of_the_bank():
    method = toy(torch.zeros(50, 4).tolist(), noise_samples=400)
    whole = method.targets(batch_of([7, 3, 40, 2]))["noise"]
    chunks = [method.targets(chunk)["noise"] for chunk in batch_of([7, 3, 40, 2]).split(2)]
    assert torch.equal(torch.cat(chunks), whole)
    assert not torch.equal(whole, method.targets(batch_of([7, 3, 40, 2], epoch=1))["noise"])
    assert sorted(whole.unique().tolist()) == list(range(50))


@pytest.mark.parametrize("options", [{"loss": "infonce", "noise_samples": 6}, {"loss": "infonce", "noise_samples": 0}])
def test_the_other_losses_are_their_plain_references(options):
    record = GOLDEN["nce"][0]
    method, step = toy(record["memory_start"], **options), record["steps"][0]
    noise = torch.tensor(step["sampled"])[:, 1 : 1 + options["noise_samples"]]
    embeddings, batch = {"f": tensor(step["features"])}, batch_of(step["index"])
    loss = method.loss(embeddings, {"noise": noise}, batch)["loss"]
    assert relative_error(loss, method.reference_loss(embeddings, {"noise": noise}, batch)) < 1e-12


def test_nce_over_the_whole_bank_is_refused_with_the_choices():
    with pytest.raises(UserError, match=r"noise_samples: 0 is the softmax .* or recipe\.method\.loss=infonce"):
        load_config("digits_demo", ["recipe.method.name=memory_bank", "recipe.method.noise_samples=0"])


def test_another_image_as_noise_that_is_the_image_itself_is_no_mistake():
    method = toy(torch.eye(4).tolist(), noise_samples=2)
    batch = replace(batch_of([1]), views={"global": torch.zeros(1, 1)})
    found = method.loss({"f": tensor([[0.0, 1.0, 0.0, 0.0]])}, {"noise": torch.tensor([[1, 2]])}, batch)
    assert float(found["contrastive_top1"]) == 1
