"""A run that begins with given weights: which they are, that the recipe names them, and what is refused."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision

from simclr_dist.config import Config, load_config
from simclr_dist.config.registry import METHODS
from simclr_dist.distributed.processes import Processes
from simclr_dist.errors import UserError
from simclr_dist.methods.build import build_method
from simclr_dist.optim.factory import make_optimizer
from simclr_dist.planning.checkpoints import checkpoint_bytes
from simclr_dist.run import checkpoint
from simclr_dist.training import pretraining, trainer
from simclr_dist.weights.digest import state_digest
from simclr_dist.weights.export import export
from simclr_dist.weights.initial import InitialState, put_into, read_initial
from simclr_dist.weights.read import load_encoder
from tests.support.images import write_image
from tests.support.methods import method_config
from tests.support.processes import (
    assert_bit_equal,
    final_state,
    pretrain_here,
    relative_error,
    run_distributed,
    tiny_config,
)

MOCO = ("recipe.method.name=moco", "recipe.method.queue_keys=64", "recipe.method.output_dim=16")


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """Two finished runs of three steps, ``simclr`` and ``moco``."""
    folder = tmp_path_factory.mktemp("runs")
    for name, method in (("simclr", ()), ("moco", MOCO)):
        config = tiny_config(folder, *method, f"machine.run_dir={folder / name}", "machine.stop_after_steps=3")
        pretraining.pretrain(config, Processes())
    return folder


def begun(config: Config) -> Any:
    """The step of a run before it does anything: method and optimizer as they begin."""
    return trainer.Trainer(config, Processes(), torch.device("cpu")).step


def test_an_encoder_begins_with_the_given_weights_to_the_bit_and_its_copies_with_it(runs, tmp_path):
    step = begun(tiny_config(tmp_path, *MOCO, f"recipe.initial.weights={runs / 'simclr'}"))
    random = begun(tiny_config(tmp_path, *MOCO, f"machine.run_dir={tmp_path / 'random'}"))
    given = load_encoder(runs / "simclr").encoder.state_dict()
    assert not torch.equal(given["backbone.bn1.running_mean"], torch.zeros(16))  # statistics come along
    assert_bit_equal(dict(step.method.encoder.state_dict()), dict(given))
    assert_bit_equal(dict(step.method.key_encoder.state_dict()), dict(given))
    assert_bit_equal(dict(step.method.projection.state_dict()), dict(random.method.projection.state_dict()))
    assert torch.equal(step.method.queue, random.method.queue)


@pytest.mark.parametrize("name", METHODS)
def test_every_second_encoder_of_a_method_begins_with_the_given_weights_too(name, tmp_path):
    recipe = method_config(name, tmp_path).recipe
    method = build_method(recipe, images=64)
    given = {key: torch.rand(each.shape).to(each.dtype) for key, each in method.encoder.state_dict().items()}
    optimizer = make_optimizer(method, recipe.optimizer)
    put_into(method, optimizer, InitialState(source="given", tensors=given, sha256=""), recipe)
    networks = {key: dict(each.state_dict()) for key, each in method.named_children()}
    encoders = [key for key, state in networks.items() if state.keys() == given.keys()]
    assert len(encoders) == 1 + ("second encoder" in method.ABOUT.keeps)
    for key in encoders:
        assert_bit_equal(networks[key], given, key)


@pytest.mark.parametrize("kept", [True, False])
def test_all_of_a_run_comes_along_and_momentum_where_it_is_kept(runs, tmp_path, kept):
    step = begun(
        tiny_config(
            tmp_path, *MOCO, f"recipe.initial.weights={runs / 'moco'}", "recipe.initial.what=all",
            f"recipe.initial.optimizer={'kept' if kept else 'fresh'}", "recipe.optimizer.weight_decay=0.5",
        )
    )  # fmt: skip
    there = final_state(runs / "moco")
    assert int(there["model"]["queue_next"]) == 32 * 3 % 64  # the queue has moved
    assert_bit_equal(dict(step.method.state_dict()), dict(there["model"]))
    here = step.optimizer.state_dict()
    assert_bit_equal(here["state"], there["optimizer"]["state"] if kept else {})
    assert here["param_groups"][0]["weight_decay"] == 0.5  # the recipe's, not that of the run before


def test_the_same_weights_have_the_same_digest_whatever_file_holds_them(runs, tmp_path):
    loaded = load_encoder(runs / "simclr")
    files = [runs / "simclr", checkpoint.path_of(runs / "simclr" / "checkpoints", 3)]
    files += [
        export(loaded, to, tmp_path / name).path
        for to, name in (("torchvision", "a.pt"), ("safetensors", "b.safetensors"))
    ]
    found = {read_initial(tiny_config(tmp_path, f"recipe.initial.weights={file}").recipe).sha256 for file in files}
    assert found == {state_digest([loaded.encoder])}
    other = tiny_config(tmp_path, f"recipe.initial.weights={runs / 'moco'}").recipe
    assert read_initial(other).sha256 not in found


def test_a_torchvision_file_of_a_resnet18_begins_a_run(tmp_path):
    network = torchvision.models.resnet18()
    torch.save(network.state_dict(), tmp_path / "resnet18.pt")
    step = begun(
        tiny_config(
            tmp_path, f"recipe.initial.weights={tmp_path / 'resnet18.pt'}", "recipe.encoder.name=resnet18",
            "recipe.encoder.width=1", "recipe.encoder.stem=imagenet", "recipe.data.image_size=32",
        )
    )  # fmt: skip
    own = step.method.encoder.backbone.state_dict()
    assert all(torch.equal(own[key], value) for key, value in network.state_dict().items() if "fc." not in key)


def _config(folder: Path, runs: Path, name: str, steps: int, *more: str) -> Config:
    return tiny_config(
        folder, f"machine.run_dir={folder / name}", f"machine.stop_after_steps={steps}",
        f"recipe.initial.weights={runs / 'simclr'}", "recipe.initial.what=all", "recipe.initial.optimizer=kept",
        "recipe.initial.steps_done=3", "machine.precision=float64", *more,
    )  # fmt: skip


def test_one_process_two_processes_and_a_resumed_run_walk_the_same_way_from_given_weights(runs, tmp_path):
    pretraining.pretrain(_config(tmp_path, runs, "whole", 7), Processes())
    for steps in (5, 7):
        pretraining.pretrain(_config(tmp_path, runs, "resumed", steps), Processes())
    run_distributed(2, pretrain_here, _config(tmp_path, runs, "two", 7))
    whole, resumed, two = (final_state(tmp_path / name) for name in ("whole", "resumed", "two"))
    assert_bit_equal(whole, resumed)
    assert whole["step"] == two["step"] == 7
    assert len(whole["recipe"]["initial"]["sha256"]) == 64
    for key, tensor in whole["model"].items():
        assert relative_error(two["model"][key], tensor) < 1e-9 or not tensor.any(), key


def test_a_run_that_has_begun_needs_its_weights_no_more_but_takes_no_others(runs, tmp_path):
    given = tmp_path / "given"
    shutil.copytree(runs / "simclr", given)
    config = [f"recipe.initial.weights={given}", "machine.stop_after_steps=1"]
    pretraining.pretrain(tiny_config(tmp_path, *config), Processes())
    named = load_config(str(tmp_path / "run" / "config.yaml")).recipe.initial.sha256
    shutil.rmtree(given)
    longer = tiny_config(tmp_path, *config[:1], "machine.stop_after_steps=2")
    assert pretraining.pretrain(longer, Processes()).steps_done == 2
    shutil.copytree(runs / "moco", given)
    with pytest.raises(UserError, match=f"holds other weights .*sha256={named} to resume without them"):
        pretraining.pretrain(tiny_config(tmp_path, *config), Processes())
    resumed = tiny_config(tmp_path, config[0], f"recipe.initial.sha256={named}", "machine.stop_after_steps=3")
    assert pretraining.pretrain(resumed, Processes()).steps_done == 3
    with pytest.raises(UserError, match=r"of another recipe: recipe.initial.sha256 is '[0-9a-f]{64}' there and ''"):
        pretraining.pretrain(tiny_config(tmp_path, "machine.stop_after_steps=4"), Processes())


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["weights={runs}/nothing"], "recipe.initial.weights: {runs}/nothing: no such file or run folder"),
        (["weights={runs}/nothing", "what=all"], "{runs}/nothing: no such file or run folder"),
        (["weights={runs}/simclr", f"sha256={'0' * 64}"], "than recipe.initial.sha256 names; give those, or remove"),
        (["weights={runs}/moco", "what=all"], "is of the method moco, and recipe.method.name is simclr"),
        (["weights={runs}/tiny.yaml", "what=all"], "takes a run or its checkpoint"),
        (["weights={runs}/simclr", "what=all", "steps_done=88"],
         "88 steps count as done, and recipe.epochs=2 are 88"),
    ],
)  # fmt: skip
def test_weights_that_are_not_what_the_recipe_says_are_refused_with_one_line(runs, tmp_path, overrides, line):
    keys = [f"recipe.initial.{each.format(runs=runs)}" for each in overrides]
    with pytest.raises(UserError) as refused:
        begun(tiny_config(tmp_path, *keys))
    assert line.format(runs=runs) in str(refused.value)


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (
            ["recipe.encoder.stem=imagenet"],
            "backbone.conv1.weight is (16, 3, 3, 3) there and (16, 3, 7, 7) here; it is a resnet10 0.25x, 3x3 stem, "
            "and recipe.encoder a resnet10 0.25x, 7x7 stem: set recipe.encoder.stem=small, whose 3x3",
        ),
        (["recipe.encoder.width=0.5"], "more; it is a resnet10 0.25x, 3x3 stem, and recipe.encoder a resnet10 0.5x"),
        (["recipe.encoder.name=resnet18"], "backbone.layer1.1.conv1.weight is missing there"),
        (
            ["recipe.method.projection.output_dim=8", "recipe.initial.what=all"],
            "more; give the recipe the sizes of those weights, or other weights; "
            "recipe.initial.what=encoder takes the encoder alone",
        ),
        (
            ["recipe.optimizer.name=sgd", "recipe.initial.what=all", "recipe.initial.optimizer=kept"],
            "has the state of lars, and recipe.optimizer.name is sgd; set recipe.initial.optimizer=fresh",
        ),
    ],
)
def test_weights_that_do_not_fit_are_refused_with_the_first_keys_and_what_to_change(runs, tmp_path, overrides, line):
    with pytest.raises(UserError) as refused:
        begun(tiny_config(tmp_path, f"recipe.initial.weights={runs / 'simclr'}", *overrides))
    assert line in str(refused.value)


@pytest.mark.parametrize(
    ("others", "line"),
    [
        (
            ["data.source=folder", "data.path={images}"],
            "the images differ (1437 there, 40 here, or other ones); give those",
        ),
        (["global_batch_images=64"], "recipe.global_batch_images is 32 there and 64 here; give those"),
    ],
)
def test_steps_of_other_images_or_batches_do_not_count_as_done(runs, tmp_path, others, line):
    images = tmp_path / "images"
    images.mkdir()
    for number in range(40):
        write_image(images / f"{number}.png")
    keys = ("weights={runs}/simclr", "what=all", "steps_done=3")
    given = [f"recipe.{each}" for each in (*(f"initial.{key}" for key in keys), "epochs=8", *others)]
    overrides = [each.format(runs=runs, images=images) for each in given]
    with pytest.raises(
        UserError, match=r"recipe\.initial\.steps_done: the 3 steps of .*simclr do not count"
    ) as refused:
        begun(tiny_config(tmp_path, *overrides))
    assert line in str(refused.value)
    begun(tiny_config(tmp_path, *overrides, "recipe.initial.steps_done=0"))


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["what=all"], "without recipe.initial.weights its other keys say nothing"),
        (["weights=x", "sha256=abc"], "recipe.initial.sha256: 'abc' is no SHA-256"),
        (["weights=x", "optimizer=kept"], "recipe.initial.optimizer: kept goes with all of a run"),
        (["weights=x", "steps_done=5"], "recipe.initial.steps_done: 5 goes with all of a run"),
        (["weights=$NOWHERE/x"], "$NOWHERE is not replaced here"),
    ],
)
def test_keys_that_say_nothing_together_are_refused(tmp_path, overrides, line):
    with pytest.raises(UserError) as refused:
        tiny_config(tmp_path, *(f"recipe.initial.{each}" for each in overrides))
    assert line in str(refused.value)


def test_other_pixels_than_the_weights_were_trained_with_are_said(runs, tmp_path):
    config = tiny_config(tmp_path, f"recipe.initial.weights={runs / 'simclr'}")
    assert read_initial(config.recipe).remarks == ()
    recipe = replace(config.recipe, data=replace(config.recipe.data, mean=[0.5, 0.5, 0.5]))
    assert "recipe.data has mean [0.5, 0.5, 0.5]" in read_initial(recipe).remarks[0]


def test_an_encoder_that_takes_another_part_of_the_image_is_said(runs, tmp_path):
    colors = tiny_config(tmp_path, "recipe.method.name=colorization", f"recipe.initial.weights={runs / 'simclr'}")
    (remark,) = [each for each in read_initial(colors.recipe).remarks if "takes" in each]
    assert "takes rgb of an image and an encoder here lightness" in remark


def test_the_plan_knows_the_size_of_a_checkpoint_whose_weights_the_start_has_still_to_name(tmp_path):
    config = tiny_config(tmp_path, "recipe.initial.weights=anything")
    predicted = checkpoint_bytes(config, 1438)
    config.recipe.initial.sha256 = "0a" * 32
    assert predicted == checkpoint_bytes(config, 1438)
