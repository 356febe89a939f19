"""Rotation against gidariss/FeatureLearningRotNet, and that its answers belong to what the network sees."""

import pytest
import torch

from simclr_dist.config import Recipe, load_config
from simclr_dist.data.loading.batch import Batch
from simclr_dist.data.preview import contact_sheet
from simclr_dist.data.sources.base import ArraySource
from simclr_dist.methods.rotation import Rotation
from simclr_dist.methods.transformations import quarter_turns
from tests.support.golden import ToyParts, golden, tensor

(RECORD,) = golden("pretext")["rotation"]


def method_of(turns: str) -> Rotation:
    return Rotation(Rotation.Config(name="rotation", turns=turns), ToyParts(Recipe(global_batch_images=4)), 4)


def batch_of(views: torch.Tensor, epoch: int = 0) -> Batch:
    return Batch(views={"global": views}, samples=torch.arange(len(views)), epoch=epoch, seed=3)


def test_copies_and_answers_are_those_of_the_authors():
    image = tensor(RECORD["image"]).to(torch.uint8).permute(2, 0, 1)
    copies = quarter_turns(image[None, :, :3, :3])[0].permute(0, 2, 3, 1)
    expected = [torch.tensor(each, dtype=torch.uint8) for each in RECORD["rotated"]]
    # The record's image is not square: a quarter turn of its left square lies where the square is carried to.
    corners = [expected[0][:3, :3], expected[1][-3:, :3], expected[2][-3:, -3:], expected[3][:3, -3:]]
    for copy, corner in zip(copies, corners, strict=True):
        assert torch.equal(copy, corner)
    targets = method_of("all").targets(batch_of(torch.zeros(2, 1, 3, 4, 4)))
    assert targets["turn"].tolist() == [RECORD["labels"]] * 2


@pytest.mark.parametrize("turns", ["all", "one"])
def test_turning_a_copy_back_by_its_answer_gives_the_view(turns):
    method, views = method_of(turns), torch.randint(256, (64, 1, 3, 6, 6), dtype=torch.uint8)
    batch = batch_of(views)
    prepared = method.prepare(batch)
    copies, answers = prepared.views["turned"], method.targets(prepared)["turn"]
    for image, (of_image, turned_by) in enumerate(zip(copies, answers.tolist(), strict=True)):
        for copy, turn in zip(of_image, turned_by, strict=True):
            assert torch.equal(copy.rot90(-turn, (-2, -1)), views[image, 0])


def test_one_turn_is_drawn_from_epoch_and_sample_id_and_all_four_occur():
    views = torch.zeros(400, 1, 3, 2, 2, dtype=torch.uint8)
    first, second = (method_of("one").targets(batch_of(views, epoch))["turn"][:, 0] for epoch in (0, 1))
    assert torch.equal(first[100:200], method_of("one").targets(batch_of(views).split(100)[1])["turn"][:, 0])
    assert not torch.equal(first, second)
    assert all(70 <= count <= 130 for count in torch.bincount(first, minlength=4).tolist())


def test_its_pictures_are_the_copies_and_the_upright_view():
    recipe = load_config("digits_demo", ["recipe.method.name=rotation"]).recipe
    pixels = torch.arange(3 * 16 * 16, dtype=torch.uint8).view(1, 3, 16, 16)
    sheet = contact_sheet(ArraySource(pixels.numpy(), None, []), recipe, 1, epochs=1)
    image, *copies, upright = (sheet[:, 2:18, 2 + 18 * column : 18 + 18 * column] for column in range(6))
    assert torch.equal(image, pixels[0])
    for turns, copy in enumerate(copies):
        assert torch.equal(copy, upright.rot90(turns, (-2, -1)))
    assert sheet.shape == (3, 20, 2 + 6 * 18)
