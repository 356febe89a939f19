"""Label augmentation against hankook/SLA: transformations, loss, gradient, and what the copies say together."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from simclr_dist.config import Recipe, load_config
from simclr_dist.data.loading.batch import Batch
from simclr_dist.data.sources.named import open_for_pretraining
from simclr_dist.errors import UserError
from simclr_dist.methods.label_augmentation import LabelAugmentation
from simclr_dist.methods.transformations import TRANSFORMATIONS
from tests.support.golden import ToyParts, golden, tensor
from tests.support.processes import relative_error

GOLDEN = golden("sla")
EXACT = 1e-10


class Pixels(nn.Flatten):
    output_dim = 27


class Parts(ToyParts):
    def encoder(self) -> Any:
        return Pixels()


def method_of(record: dict[str, Any]) -> LabelAugmentation:
    config = LabelAugmentation.Config(
        classes=record["classes"], transformation=record["augmentation"], summed=record["summed_over_transformations"],
        self_distillation=record["self_distillation"], distillation_temperature=record["T"] or 1.0,
    )  # fmt: skip
    method = LabelAugmentation(config, Parts(Recipe(global_batch_images=4)), 4).double()
    method.load_state_dict({key: tensor(value) for key, value in record["weights"].items()})
    return method


def batch_of(record: dict[str, Any]) -> Batch:
    images = tensor(record["images"])[:, None]
    labels = torch.tensor(record["labels"])
    return Batch(views={"global": images}, samples=torch.arange(len(images)), epoch=0, seed=0, labels=labels)


@pytest.mark.parametrize("record", GOLDEN["transforms"], ids=lambda record: record["name"])
def test_transformations_are_those_of_the_authors(record):
    count, transformed = TRANSFORMATIONS[record["name"]]
    copies = transformed(tensor(record["image"]))[0]
    assert count == len(copies) == record["count"]
    assert torch.equal(copies, tensor(record["out"]))


@pytest.mark.parametrize("record", GOLDEN["labels"], ids=lambda record: record["augmentation"])
def test_loss_gradient_and_logits_are_those_of_the_authors(record):
    method, out = method_of(record), record["out"]
    batch = method.prepare(batch_of(record))
    embeddings = method.embed(batch)
    outputs = method.loss(embeddings, {}, batch)
    outputs["loss"].backward()
    assert float(outputs["loss"].detach()) == pytest.approx(out["loss"], rel=EXACT)
    for key, parameter in method.named_parameters():
        assert relative_error(parameter.grad, tensor(record["gradient"][key])) < EXACT, key
    joint = embeddings["joint"].detach()
    # The authors' rows are the images', then their copies', and columns the classes', then the transformations'.
    assert relative_error(joint.flatten(0, 1).flatten(1), tensor(out["preds"])) < EXACT
    labels = torch.tensor(record["labels"])
    assert float(outputs["joint_top1"]) == share(tensor(out["preds"]), torch.tensor(out["labels"]))
    assert float(outputs["aggregated_top1"]) == share(tensor(out["agg_preds"]), labels)
    assert float(outputs["single_top1"]) == share(tensor(out["single_preds"]), labels)
    assert float(method.reference_loss(embeddings, {}, batch).detach()) == pytest.approx(out["loss"], rel=EXACT)


def share(logits: Tensor, answers: Tensor) -> float:
    return float((logits.argmax(1) == answers).double().mean())


def test_the_distilled_aggregation_carries_no_gradient():
    (record,) = (record for record in GOLDEN["labels"] if record["self_distillation"])
    method = method_of(record)
    batch = method.prepare(batch_of(record))
    embeddings = {key: each.detach().requires_grad_() for key, each in method.embed(batch).items()}
    joint = {key: value for key, value in record["weights"].items() if key.startswith("joint")}
    without = method_of({**record, "self_distillation": False, "weights": joint})
    gradients = [
        torch.autograd.grad(each.loss(embeddings, {}, batch)["loss"], embeddings["joint"])[0]
        for each in (method, without)
    ]
    assert relative_error(*gradients) < EXACT


def test_images_of_more_classes_than_the_recipe_says_are_refused_and_fewer_are_not():
    config = load_config("digits_demo", ["recipe.method.name=label_augmentation", "recipe.method.classes=10"])
    assert len(open_for_pretraining(config)) > 0
    config.recipe.method.classes = 9
    with pytest.raises(UserError, match=r"recipe\.method\.classes: .* are of 10; set recipe\.method\.classes=10"):
        open_for_pretraining(config)
