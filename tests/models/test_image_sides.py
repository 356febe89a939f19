"""Encoders that take images of another side than they were trained with."""

import pytest
import torch

from simclr_dist.errors import UserError
from simclr_dist.models.encoder import Encoder
from simclr_dist.models.image_sides import take_images
from simclr_dist.models.timm_encoder import TimmEncoder

VIT = {"img_size": 32, "patch_size": 8, "depth": 1, "embed_dim": 24, "num_heads": 2}
IMAGES = torch.randint(0, 256, (2, 3, 48, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def vit(**options):
    torch.manual_seed(0)
    return TimmEncoder("vit_tiny_patch16_224", VIT | options).eval()


def test_a_vit_that_is_made_to_take_larger_images_is_the_one_that_resamples_its_positions_by_itself():
    fixed, dynamic = vit(), vit(dynamic_img_size=True)
    with torch.no_grad():
        torch.nn.init.normal_(fixed.backbone.pos_embed)
        dynamic.load_state_dict(fixed.state_dict())
        assert take_images(fixed, 48)
        torch.testing.assert_close(fixed(IMAGES), dynamic(IMAGES))


@pytest.mark.parametrize(
    ("encoder", "side"),
    [
        (vit(), 32),
        (vit(dynamic_img_size=True), 48),
        (TimmEncoder("convnext_atto", {"dims": [8, 8, 16, 24], "depths": [1, 1, 1, 1]}), 48),
        (Encoder("resnet10", width=0.25, stem="small"), 48),
    ],
)
def test_what_takes_images_of_that_side_stays_as_it_is(encoder, side):
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    assert not take_images(encoder, side)
    assert all(torch.equal(before[name], value) for name, value in encoder.state_dict().items())


def test_a_side_that_patches_do_not_divide_is_refused_with_the_key():
    with pytest.raises(UserError, match=r"recipe.data.image_size: timm/vit_tiny_patch16_224 takes no images of 45 px"):
        take_images(vit(), 45)
