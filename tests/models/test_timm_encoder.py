"""Models of timm as encoders: what is replaced in them, maps, what is refused and how it is said."""

import importlib.util
import re

import pytest
import timm
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from simclr_dist.config import Recipe, load_config
from simclr_dist.config.recipe import Data
from simclr_dist.config.recipe import Encoder as EncoderKeys
from simclr_dist.errors import UserError
from simclr_dist.methods.build import build_encoder
from simclr_dist.models.batch_norm import norms_of
from simclr_dist.models.drops import Dropout, drops_of
from simclr_dist.models.encoder import HALVES
from simclr_dist.models.timm_check import check_recipe
from simclr_dist.models.timm_encoder import TimmEncoder
from simclr_dist.training.encoder_rules import check_encoder
from tests.support.timm_families import FAMILIES

VIT = FAMILIES["ViT"].options


def encoder_of(family: str, **others: object) -> TimmEncoder:
    name, options, _ = FAMILIES[family]
    torch.manual_seed(0)
    return TimmEncoder(name, options, **others)


def noise(rows: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (rows, 3, 32, 32), dtype=torch.uint8, generator=generator)


def recipe_of(name: str, options: dict[str, object] | None = None, size: int = 32, **keys: object) -> Recipe:
    encoder = EncoderKeys(name=f"timm/{name}", options=options or {}, **keys)
    return Recipe(data=Data(image_size=size), encoder=encoder)


@pytest.mark.parametrize("family", ["ResNet", "EfficientNet", "RegNet", "DenseNet"])
def test_with_grouped_norms_a_model_computes_what_timm_computes_in_training_and_keeps_its_names(family):
    name, options, _ = FAMILIES[family]
    torch.manual_seed(0)
    theirs = timm.create_model(
        name, num_classes=0, **{**options, "drop_path_rate": 0.0} if family != "DenseNet" else options
    )
    ours = encoder_of(family)
    assert ours.backbone.state_dict().keys() == theirs.state_dict().keys()
    expected = theirs.double()(ours.double().normalised(noise().double() / 255))
    assert torch.allclose(ours(noise()), expected, rtol=1e-9, atol=1e-12)  # without a batch nothing is dropped
    for key, tensor in ours.backbone.state_dict().items():
        assert torch.allclose(tensor.double(), theirs.state_dict()[key].double(), rtol=1e-9, atol=1e-12), key
    assert len(norms_of(ours)) == sum(isinstance(each, nn.BatchNorm2d) for each in theirs.modules())


def test_attention_that_drops_leaves_the_fused_kernel_and_attention_that_does_not_keeps_it():
    dropping, whole = encoder_of("ViT"), encoder_of("DeiT")
    assert isinstance(dropping.backbone.blocks[0].attn.attn_drop, Dropout)
    assert [part.backbone.blocks[0].attn.fused_attn for part in (dropping, whole)] == [False, True]


@pytest.mark.parametrize("family", ["ConvNeXt", "Swin", "NFNet"])
def test_the_pooled_map_is_the_encoders_features_to_the_bit(family):
    encoder = encoder_of(family).eval()
    maps = encoder.map(noise())
    assert maps.shape[:2] == (4, encoder.output_dim)
    assert torch.equal(encoder.pool(maps), encoder(noise()))


def test_a_vit_has_a_map_where_its_features_are_the_mean_of_its_patches():
    options = {**VIT, "class_token": False, "global_pool": "avg"}
    encoder = TimmEncoder("vit_tiny_patch16_224", options).eval()
    maps = encoder.map(noise())
    assert maps.shape == (4, 24, 2, 2)
    assert torch.equal(encoder.pool(maps), encoder(noise()))
    with pytest.raises(UserError, match=r"no map of 24 channels.*class_token: false, global_pool: avg"):
        encoder_of("ViT").eval().map(noise())


@pytest.mark.parametrize("recompute", ["none", "blocks"])
@pytest.mark.parametrize("family", ["ResNet", "ConvNeXt", "Swin", "EfficientNet", "RegNet"])
def test_maps_only_freezes_what_acts_behind_the_map_and_nothing_else(family, recompute):
    encoder = encoder_of(family, recompute=recompute)
    encoder.maps_only()
    frozen = [name for name, each in encoder.named_parameters() if not each.requires_grad]
    assert frozen == (["backbone.head.norm.weight", "backbone.head.norm.bias"] if family == "ConvNeXt" else [])
    encoder.map(noise()).square().sum().backward()
    assert [name for name, each in encoder.named_parameters() if each.grad is None] == frozen
    assert encoder.training


def test_a_frozen_patch_projection_gets_no_gradient_and_the_rest_does():
    encoder = encoder_of("ViT", frozen="patch_projection")
    encoder(noise()).square().sum().backward()
    without = [name for name, each in encoder.backbone.named_parameters() if each.grad is None]
    assert without == ["patch_embed.proj.weight", "patch_embed.proj.bias"]


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda: recipe_of("convnext_tinny"), "has no model 'convnext_tinny'.*did you mean 'convnext_tiny'"),
        (lambda: recipe_of("resnet18", {"drop_pth_rate": 0.1}), "drop_pth_rate: .*no such option.*drop_path_rate"),
        (lambda: recipe_of("resnet18", {"pretrained": True}), "options.pretrained: .*recipe.initial.weights"),
        (lambda: recipe_of("resnet18", {"layers": "many"}), "timm/resnet18 cannot be made with {layers: many}"),
        (lambda: recipe_of("vit_tiny_patch16_224"), "224 px in patches of 16, and .* of 32 px; set .*img_size=32"),
        (lambda: recipe_of("vit_tiny_patch16_224", {"img_size": 32}, size=24), "multiple of 16"),
        (lambda: recipe_of("vit_tiny_patch16_224", {"global_pool": "", "img_size": 32}), "leave the option out"),
        (lambda: recipe_of("resnet18", frozen="patch_projection"), "timm/resnet18 has no patch projection"),
    ],
)  # fmt: skip
def test_what_timm_cannot_make_or_take_is_one_line_that_names_the_key(make, line):
    with pytest.raises(UserError, match=line) as error:
        check_recipe(make())
    assert str(error.value).startswith("recipe.")
    assert "\n" not in str(error.value)


def test_views_of_several_sizes_want_a_vit_that_takes_them():
    recipe = recipe_of("vit_tiny_patch16_224", {"img_size": 32})
    recipe.views["global"].size = 48
    with pytest.raises(UserError, match="dynamic_img_size=true"):
        check_recipe(recipe)
    recipe.encoder.options["dynamic_img_size"] = True
    check_recipe(recipe)


JIGSAW = ["recipe.method.name=jigsaw", "recipe.method.permutations=8", "recipe.encoder.name=timm/vit_tiny_patch16_224"]


def test_a_vit_of_the_size_of_jigsaws_patches_is_taken_and_one_of_its_views_size_is_refused_with_the_cure():
    fits = ["recipe.encoder.options={depth: 1, img_size: 64}", "recipe.data.image_size=64"]
    recipe = load_config("digits_demo", JIGSAW + fits).recipe
    assert recipe.views["global"].size == 255
    check_encoder(build_encoder(recipe), recipe)
    others = ["recipe.encoder.options={depth: 1, img_size: 240}", "recipe.data.image_size=240"]
    with pytest.raises(UserError, match="takes images of 240 px in patches of 16, and gets some of 60 px; set "):
        load_config("digits_demo", [*JIGSAW, *others, "recipe.views.global.size=240"])


def test_a_model_whose_making_asks_tensors_for_values_can_be_checked_without_data(monkeypatch):
    timm, plain = pytest.importorskip("timm"), pytest.importorskip("timm").create_model

    def as_earlier_releases_make_a_regnet(*arguments, **options):
        torch.unique(torch.tensor([1, 1, 2]))  # which torch cannot do on its meta device
        return plain(*arguments, **options)

    monkeypatch.setattr(timm, "create_model", as_earlier_releases_make_a_regnet)
    with torch.device("meta"):
        encoder = TimmEncoder("resnet18", {})
    assert {each.device.type for each in encoder.backbone.parameters()} == {"meta"}


def test_without_timm_a_line_says_how_to_get_it(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "timm" else find(name))
    with pytest.raises(UserError, match=re.escape("pip install 'simclr_dist[timm]'")):
        check_recipe(recipe_of("resnet18"))


@pytest.mark.parametrize(
    ("name", "others", "line"),
    [
        ("vgg11", {"recompute": "blocks"}, "machine.recompute: 'blocks' is nothing that timm can do with timm/vgg11"),
        ("resnet18", {"takes": HALVES}, "two halves are made of a ResNet of this project"),
    ],
)
def test_what_a_model_cannot_do_here_is_refused(name, others, line):
    with torch.device("meta"), pytest.raises(UserError, match=line):
        TimmEncoder(name, {}, **others)


def test_dropblock_is_refused_by_its_layer():
    with torch.device("meta"), pytest.raises(UserError, match=r"its layer layer3.*DropBlock"):
        TimmEncoder("resnet18", {"drop_block_rate": 0.1})


class _LessTheMean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(0)


def test_a_layer_in_which_images_meet_is_found_and_named():
    encoder = encoder_of("ConvNeXt")
    encoder.backbone.stages[1] = nn.Sequential(encoder.backbone.stages[1], _LessTheMean())
    with pytest.raises(UserError, match=r"its layer stages.1.1 \(_LessTheMean\) makes something else of an image"):
        check_encoder(encoder, recipe_of("convnext_atto"))


@pytest.mark.parametrize(
    ("name", "options", "layer"),
    [
        ("densenet121", {**FAMILIES["DenseNet"].options, "proj_drop_rate": 0.2}, "features.denseblock1.denselayer1"),
        ("tinynet_e", {"drop_rate": 0.2}, r"\(the whole model\)"),
    ],
)
def test_functional_dropout_is_found_and_its_layer_named(name, options, layer):
    encoder = TimmEncoder(name, options)
    with pytest.raises(UserError, match=rf"its layer {layer} .* draws by torch's own generator"):
        check_encoder(encoder, recipe_of(name))


def test_among_fake_tensors_a_model_is_made_of_fake_ones_of_the_same_shapes():
    real = {key: each.shape for key, each in encoder_of("ViT").state_dict().items()}
    with FakeTensorMode():
        fake = encoder_of("ViT", frozen="patch_projection")
        assert fake(torch.zeros(2, 3, 32, 32, dtype=torch.uint8)).shape == (2, fake.output_dim)
    assert {key: each.shape for key, each in fake.state_dict().items()} == real
    assert all(isinstance(each, FakeTensor) for each in fake.state_dict().values())
    assert [each.requires_grad for each in fake.backbone.patch_embed.parameters()] == [False, False]


@pytest.mark.parametrize("family", FAMILIES)
def test_no_layer_of_the_twelve_families_is_refused_and_all_is_as_before(family):
    encoder, state = encoder_of(family), torch.get_rng_state()
    modes = [part.training for part in encoder.modules()]
    check_encoder(encoder, recipe_of(FAMILIES[family].name))
    assert torch.equal(torch.get_rng_state(), state)
    assert [part.training for part in encoder.modules()] == modes
    assert all(int(norm.num_batches_tracked) == 0 for norm in norms_of(encoder))
    assert all(drops.keys is None for drops in drops_of(encoder))
