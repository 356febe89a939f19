"""Temporal contrast: every form against its plain one, on processes, what a partner's group follows, refusals."""

from typing import Any

import pytest
import torch
from PIL import Image

from simclr_dist.config import load_config
from simclr_dist.config.registry import method_class
from simclr_dist.data.loading.batch import Batch
from simclr_dist.data.sources.named import open_for_pretraining
from simclr_dist.data.views.frame_time import FrameTime
from simclr_dist.distributed.collectives import process_count, process_rank
from simclr_dist.errors import UserError
from simclr_dist.methods.temporal_contrast import TemporalContrast
from tests.support.golden import ToyParts, toy_recipe
from tests.support.processes import relative_error, run_distributed

FORMS = [{"loss": loss, **windows} for loss in ("triplet", "nt_xent", "n_pairs") for windows in (
    {"positive_frames": 2, "negative_frames": 5},
    {"partner": "camera", "positive_frames": 0, "negative_frames": 0},
)]  # fmt: skip
IMAGES = 16


def toy(**keys: Any) -> TemporalContrast:
    return TemporalContrast(TemporalContrast.Config(output_dim=6, **keys), ToyParts(toy_recipe(IMAGES)), 100).double()


def loss_of(keys: dict[str, Any]) -> tuple[dict[str, torch.Tensor], torch.Tensor, torch.Tensor]:
    """What the method returns, the gradient of this process's embeddings, and the plain loss of the global batch."""
    generator = torch.Generator().manual_seed(0)
    z = torch.nn.functional.normalize(torch.randn(IMAGES, 2, 6, generator=generator).double(), dim=2)
    sequence = torch.arange(IMAGES) % 2
    frame = torch.randint(12, (IMAGES, 2), generator=generator)
    frame[:, 1] = frame[:, 0] + (frame[:, 1] % 2 if keys.get("partner") is None else 0)
    views = torch.zeros(IMAGES, 1, 6)
    time = {
        name: FrameTime(sequence, frame[:, side], 0 * sequence + side)
        for side, name in enumerate(("anchor", "partner"))
    }
    batch = Batch(views={"anchor": views, "partner": views}, samples=torch.arange(IMAGES), epoch=0, seed=0, time=time)
    method = toy(**keys)
    plain = method.reference_loss({"z": z}, {}, batch)
    own_batch = batch.split(IMAGES // process_count())[process_rank()]
    own = z.chunk(process_count())[process_rank()].clone().requires_grad_()
    found = method.loss({"z": own}, {}, own_batch)
    found["loss"].backward()
    return {name: value.detach() for name, value in found.items()}, own.grad, plain


@pytest.mark.parametrize("keys", FORMS, ids=lambda keys: f"{keys['loss']}-{keys.get('partner', 'near')}")
def test_the_loss_is_the_plain_one_and_that_of_one_process_on_any_number(keys):
    whole, gradient, plain = loss_of(keys)
    assert whole["loss"].item() > 0
    assert whole["loss"].item() == pytest.approx(plain.item(), rel=1e-12)
    shares = run_distributed(2, loss_of, keys)
    for found, _, _ in shares:
        assert all(found[name].item() == pytest.approx(value.item(), rel=1e-12) for name, value in whole.items())
    assert relative_error(torch.cat([own for _, own, _ in shares]) / 2, gradient) < 1e-12


def test_the_partners_group_follows_the_methods_keys():
    config = load_config("frames_resnet50_temporal", ["recipe.method.positive_frames=4"])
    assert (config.recipe.views["partner"].frame, config.recipe.views["partner"].frame_distance) == ("near", 4)
    assert config.recipe.views["anchor"].frame == "own"
    assert method_class("temporal_contrast").needs == {"time"}


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["recipe.method.negative_frames=3"], r"negative_frames: 3 is less than .*positive_frames, 6"),
        (["recipe.method.positive_frames=0"], r"positive_frames: no frame is 0 away .*partner=camera"),
        (["recipe.views.partner.frame_distance=9"], r"recipe\.views: the anchor shows the sample's own frame"),
        (["recipe.views.anchor.frame=near"], r"recipe\.views: the anchor shows the sample's own frame"),
        (["recipe.views.partner.size=64"], r"partner\.size: 64 is not recipe\.views\.anchor\.size"),
    ],
)
def test_recipes_that_contradict_themselves_are_refused(overrides, said):
    with pytest.raises(UserError, match=said):
        load_config("frames_resnet50_temporal", overrides)


def test_frames_of_which_none_repel_are_refused_at_the_start(tmp_path):
    for number in range(13):
        Image.new("RGB", (8, 8)).save(tmp_path / f"a{number:02}.png")
    keys = ["recipe.data.source=frames", f"recipe.data.path={tmp_path}"]
    config = load_config("frames_resnet50_temporal", keys)
    with pytest.raises(UserError, match=r"negative_frames: no frame is more than 12 numbers from another .*lower it"):
        open_for_pretraining(config)
    open_for_pretraining(load_config("frames_resnet50_temporal", [*keys, "recipe.method.negative_frames=11"]))
    Image.new("RGB", (8, 8)).save(tmp_path / "b00.png")  # of another sequence
    open_for_pretraining(config)


def test_a_group_of_another_method_may_show_near_frames_and_says_how_far():
    views = load_config(
        "imagenet_resnet50_byol", ["recipe.views.second.frame=near", "recipe.views.second.frame_distance=3"]
    )
    assert views.recipe.views["second"].frame_distance == 3
    with pytest.raises(UserError, match=r"second\.frame_distance: a frame 'near' another is at least 1 away"):
        load_config("imagenet_resnet50_byol", ["recipe.views.second.frame=near"])
