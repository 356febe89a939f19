"""DINO against facebookresearch/dino: loss, gradient and centre of whole runs of steps, head, schedules; freezing."""

import math
from typing import Any

import pytest
import torch

from simclr_dist.config import load_config
from simclr_dist.data.loading.batch import Batch
from simclr_dist.distributed.collectives import process_count, process_rank
from simclr_dist.errors import UserError
from simclr_dist.methods.dino import DINO, Head
from simclr_dist.models.follower import rising_momentum
from simclr_dist.optim.rates import Moment, parameter_groups, set_rates
from tests.support.golden import ToyParts, golden, tensor, toy_recipe
from tests.support.processes import relative_error, run_distributed

GOLDEN = golden("dino")
EXACT = 1e-10


def toy(**options: Any) -> DINO:
    sizes = {"hidden_dim": 4, "bottleneck_dim": 3, "output_dim": 6}
    return DINO(DINO.Config(**(sizes | options)), ToyParts(toy_recipe(4)), 4).double()


def of_record(record: dict[str, Any], outputs: int) -> DINO:
    keys = {
        "student_temperature": record["student_temperature"], "center_momentum": record["center_momentum"],
        "teacher_temperature": record["teacher_temp"], "first_teacher_temperature": record["warmup_teacher_temp"],
        "teacher_temperature_warmup_epochs": record["warmup_teacher_temp_epochs"], "output_dim": outputs,
    }  # fmt: skip
    return toy(**keys)


def batch_of(images: int, epoch: int = 0) -> Batch:
    views = {name: torch.zeros(images, 1, 6) for name in ("first", "second")}
    return Batch(views=views, samples=torch.arange(images), epoch=epoch, seed=0)


def by_image(rows: Any, images: int) -> torch.Tensor:
    """Rows of the records, crop by crop, as (images, crops, outputs)."""
    return tensor(rows).unflatten(0, (-1, images)).transpose(0, 1)


def walk() -> list[list[dict[str, Any]]]:
    """Own rows of all records' steps on the processes that are here: loss, gradient, the centre after the update."""
    found = []
    for record in GOLDEN["loss"]:
        images = record["batch"]
        students, teachers, epochs = _inputs(record)
        method, steps = of_record(record, len(students[0][0])), []
        for rows, answers, epoch in zip(students, teachers, epochs, strict=True):
            student, teacher = (
                by_image(each, images).chunk(process_count())[process_rank()] for each in (rows, answers)
            )
            student = student.clone().requires_grad_()
            batch, targets = batch_of(len(student), epoch), {"teacher": teacher}
            embeddings = {"student": student, "z": torch.zeros(len(student), 3)}
            loss = method.loss(embeddings, targets, batch)["loss"]
            loss.backward()
            method.after_update(embeddings, targets, batch, 0, 9)
            steps.append({"loss": float(loss.detach()), "gradient": student.grad, "center": method.center.clone()})
        found.append(steps)
    return found


def _inputs(record: dict[str, Any]) -> tuple[list[Any], list[Any], list[int]]:
    if record["processes"] == 2:
        return record["student"], record["teacher"], list(range(len(record["student"])))
    students, teachers, epochs = ([step[key] for step in record["steps"]] for key in ("student", "teacher", "epoch"))
    return students, teachers, epochs


def _told(record: dict[str, Any]) -> list[dict[str, Any]]:
    """Of one process with the global batch; what two saw, joined: the loss is the mean of theirs."""
    if record["processes"] == 1:
        return [
            {"loss": step["loss"], "center": step["center_after"][0],
             "gradient": by_image(step["gradient_student"], record["batch"])}
            for step in record["steps"]
        ]  # fmt: skip
    return [
        {"loss": (one["loss"] + other["loss"]) / 2, "center": one["center"][0],
         "gradient": torch.cat([by_image(each["gradient_student"], record["batch"] // 2) for each in (one, other)]) / 2}
        for one, other in zip(*record["per_process"], strict=True)
    ]  # fmt: skip


@pytest.mark.parametrize("processes", [1, 2])
def test_loss_gradient_and_centre_are_those_of_the_authors_whatever_the_number_of_processes(processes):
    of_processes = run_distributed(processes, walk) if processes > 1 else [walk()]
    for number, record in enumerate(GOLDEN["loss"]):
        for step, told in enumerate(_told(record)):
            own = [found[number][step] for found in of_processes]
            for each in own:
                assert each["loss"] == pytest.approx(told["loss"], rel=EXACT)
                assert relative_error(each["center"], tensor(told["center"])) < EXACT
            # DistributedDataParallel takes the mean over processes of what is summed in the parameters.
            gradient = torch.cat([each["gradient"] for each in own]) / processes
            assert relative_error(gradient, told["gradient"]) < EXACT


@pytest.mark.parametrize("record", GOLDEN["head"], ids=lambda record: f"norm_last_layer={record['norm_last_layer']}")
def test_the_head_and_its_gradients_are_those_of_the_authors(record):
    keys = DINO.Config(
        hidden_dim=4, bottleneck_dim=3, output_dim=6, norm_last_layer=record["norm_last_layer"], head_batch_norm=False
    )
    head = Head(keys, ToyParts(toy_recipe(4)), 5).double()
    names = {f"mlp.{2 * layer}": f"mlp.linear_{layer + 1}" for layer in range(3)}
    names |= {"last_layer.weight_v": "last_layer.direction", "last_layer.weight_g": "last_layer.length"}

    def own(name: str) -> str:
        return names.get(name) or f"{names[name.rpartition('.')[0]]}.{name.rpartition('.')[2]}"

    head.load_state_dict({own(name): tensor(values) for name, values in record["weights"].items()})
    x = tensor(record["x"]).requires_grad_()
    _, outputs = head(x)
    outputs.backward(tensor(record["cotangent"]))
    assert relative_error(outputs.detach(), tensor(record["out"])) < EXACT
    assert relative_error(x.grad, tensor(record["gradient_x"])) < EXACT
    parameters = dict(head.named_parameters())
    assert {name for name, each in parameters.items() if each.requires_grad} == set(map(own, record["trainable"]))
    for name, gradient in record["gradient"].items():
        assert relative_error(parameters[own(name)].grad, tensor(gradient)) < EXACT, name


def test_the_teachers_temperature_by_epoch_and_momentum_by_step_are_those_of_the_authors():
    for record in GOLDEN["loss"]:
        method = of_record(record, 6)
        told = record.get("teacher_temp_schedule", [])
        assert [method.teacher_temperature(epoch) for epoch in range(len(told))] == pytest.approx(told, rel=EXACT)
    record = next(record for record in GOLDEN["schedule"] if record["name"] == "teacher_momentum")
    steps = record["epochs"] * record["steps_per_epoch"]
    for step, told in record["value_at_step"].items():
        assert rising_momentum(record["base"], int(step), steps) == pytest.approx(told, abs=EXACT)


def test_the_teacher_starts_as_the_student_follows_its_parameters_and_keeps_its_own_statistics():
    method = toy(teacher_momentum=0.5)
    for name, value in method.encoder.state_dict().items():
        assert torch.equal(value, method.teacher_encoder.state_dict()[name])
    before = method.teacher_projection.last_layer.direction.clone()
    with torch.no_grad():
        method.projection.last_layer.direction.add_(1)
        method.encoder.bn.running_mean.add_(1)
    method.after_update({}, {"teacher": torch.ones(4, 2, 6).double()}, batch_of(4), 5, 10)  # half way: 0.75
    assert torch.allclose(method.teacher_projection.last_layer.direction, before + 0.25)
    assert torch.equal(method.teacher_encoder.bn.running_mean, torch.zeros(8, dtype=torch.float64))


def test_the_centre_is_kept_in_float32_where_outputs_are_in_half_precision():
    method = toy().float()
    answers = (100 + torch.randn(512, 2, 6)).bfloat16()
    method.after_update({}, {"teacher": answers}, batch_of(512), 0, 10)
    assert method.state_dict()["center"].dtype == torch.float32
    assert relative_error(method.center, 0.1 * answers.double().mean((0, 1))) < 1e-6


def test_each_kind_of_collapse_shows_in_its_metric():
    outputs = torch.zeros(4, 2, 6, dtype=torch.float64)
    one = outputs.index_fill(2, torch.tensor([3]), 10.0)  # every image, the same output
    same = torch.ones(4, 3)
    found = {}
    for name, teacher in (
        ("all", outputs),
        ("one", one),
        ("none", 10 * torch.eye(6)[:4, None].expand(4, 2, 6).double()),
    ):
        z = torch.eye(4) if name == "none" else same
        metrics = toy().loss({"student": teacher, "z": z}, {"teacher": teacher}, batch_of(4))
        found[name] = [round(float(metrics[key]), 3) for key in ("outputs_in_use", "teacher_entropy", "embedding_std")]
    assert found == {"all": [6.0, round(math.log(6), 3), 0.0], "one": [1.0, 0.0, 0.0], "none": [4.0, 0.0, 0.866]}
    assert DINO.METRICS["embedding_std"].role == "collapse"


@pytest.mark.parametrize("norm_last_layer", [True, False])
def test_the_last_layer_does_not_move_in_its_frozen_epochs_nor_by_momentum_and_decay_after_them(norm_last_layer):
    method = toy(frozen_epochs=2, norm_last_layer=norm_last_layer)
    last = method.projection.last_layer
    rates = method.rates()
    optimizer = torch.optim.SGD(parameter_groups(method, 0.1, rates), lr=0.0, momentum=0.9)
    for step in range(7):
        before = {name: each.detach().clone() for name, each in last.named_parameters()}
        for parameter in (each for each in method.parameters() if each.requires_grad):
            parameter.grad = torch.ones_like(parameter)
        set_rates(optimizer, rates, Moment(step=step, steps=9, steps_per_epoch=3, scheduled=0.1, peak=0.1))
        optimizer.step()
        moved = {name for name, each in last.named_parameters() if not torch.equal(each, before[name])}
        trained = {"direction"} if norm_last_layer else {"direction", "length"}
        assert moved == (set() if step < 6 else trained), step
    # The momentum begins with the first step that moves it.
    assert torch.allclose(optimizer.state[last.direction]["momentum_buffer"], 1 + 0.1 * before["direction"])


def test_whole_views_pass_together_and_small_ones_by_themselves():
    method = toy(small_views=1)
    views = {name: torch.randn(4, 1, 6, dtype=torch.float64) for name in ("first", "second", "small")}
    found = []
    for changed in ("second", "small"):
        other = {name: each + (name == changed) * torch.randn(4, 1, 6) for name, each in views.items()}
        one, two = (
            method.embed(Batch(views=each, samples=torch.arange(4), epoch=0, seed=0))["student"]
            for each in (views, other)
        )
        found.append([torch.equal(one[:, view], two[:, view]) for view in range(3)])
    # Batch norm mixes the whole views with one another, and no small one with them.
    assert found == [[False, False, True], [True, True, False]]


def test_the_views_are_those_of_the_paper_and_small_images_are_told_what_to_set():
    views = DINO.views(DINO.Config())
    assert [(group.count, group.size, group.crop_area_min, group.crop_area_max) for group in views.values()] == [
        (1, 0, 0.14, 1.0), (1, 0, 0.14, 1.0), (8, 96, 0.05, 0.14)
    ]  # fmt: skip
    assert [group.blur_probability for group in views.values()] == [1.0, 0.1, 0.5]
    assert [group.solarize_probability for group in views.values()] == [0.0, 0.2, 0.0]
    dino = "recipe.method.name=dino"
    with pytest.raises(UserError, match=r"set recipe\.views\.small\.size=8, or recipe\.method\.small_views=0"):
        load_config("digits_demo", [dino])
    with pytest.raises(
        UserError, match=r"recipe\.views\.second\.size: dino's two whole views have one size, not 16 and"
    ):
        load_config("digits_demo", [dino, "recipe.method.small_views=0", "recipe.views.second.size=12"])
