"""Encoders and heads: torchvision's networks, the paper's widths, the official code's head."""

import pytest
import torch
import torchvision
from torch import nn

from simclr_dist.errors import UserError
from simclr_dist.models.batch_norm import GroupedBatchNorm
from simclr_dist.models.encoder import Encoder
from simclr_dist.models.projection import projection_head
from simclr_dist.models.resnet import set_output_stride
from simclr_dist.models.segmentation import deeplab_v3
from tests.support.processes import relative_error


def images(side: int) -> torch.Tensor:
    return torch.randint(0, 256, (2, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_features_are_those_of_torchvision_with_the_same_weights(name):
    encoder = Encoder(name).eval()
    theirs = torchvision.models.get_model(name, weights=None).eval()
    theirs.fc = nn.Identity()
    theirs.load_state_dict(encoder.backbone.state_dict())
    pixels = torchvision.transforms.functional.normalize(
        images(64) / 255, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
    )
    with torch.no_grad():
        assert torch.allclose(encoder(images(64)), theirs(pixels), atol=1e-5)


@pytest.mark.parametrize(
    ("name", "width", "output_dim", "parameters"),
    # The paper's figure 7 and v2's table 1: ResNet-50 has 24 M parameters, 2x 94 M, 4x 375 M.
    [
        ("resnet50", 1, 2048, 24e6),
        ("resnet50", 2, 4096, 94e6),
        ("resnet152", 1, 2048, 58e6),
        ("resnet18", 0.5, 256, 2.8e6),
    ],
)
def test_widths_give_the_papers_sizes(name, width, output_dim, parameters):
    with torch.device("meta"):
        encoder = Encoder(name, width=width)
    assert encoder.output_dim == output_dim
    assert sum(p.numel() for p in encoder.parameters()) == pytest.approx(parameters, rel=0.025)


def test_the_small_stem_keeps_the_resolution():
    encoder = Encoder("resnet10", width=0.25, stem="small").eval()
    sizes = []
    encoder.backbone.layer1.register_forward_hook(
        lambda _module, _inputs, output: sizes.append(tuple(output.shape[1:]))
    )
    encoder(images(32))
    assert sizes == [(16, 32, 32)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "resnet19"}, "resnet19"),
        ({"name": "resnet18", "stem": "odd"}, "odd"),
        ({"name": "resnet18", "width": 1e-4}, "width"),
        ({"name": "resnet18", "output_stride": 4}, "output_stride: 4 is none of 32, 16, 8"),
        ({"name": "resnet18", "stem": "small", "output_stride": 16}, "output_stride: 16 is none of 8, 4, 2"),
    ],
)
def test_encoders_that_cannot_be_built_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Encoder(**options)


@pytest.mark.parametrize("stride", [16, 8])
def test_dilated_maps_are_those_of_torchvision_with_the_same_weights(stride):
    encoder = Encoder("resnet50", output_stride=stride).eval()
    theirs = torchvision.models.resnet50(weights=None, replace_stride_with_dilation=[False, stride == 8, True]).eval()
    theirs.load_state_dict(encoder.backbone.state_dict(), strict=False)  # all but the classifier
    found = []
    theirs.layer4.register_forward_hook(lambda _module, _inputs, output: found.append(output))
    with torch.no_grad():
        own = encoder.map(images(64))
        theirs((images(64) / 255 - encoder.mean) / encoder.std)
    assert own.shape == (2, 2048, 64 // stride, 64 // stride)
    assert torch.equal(own, found[0])


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
@pytest.mark.parametrize(("stem", "own"), [("imagenet", 32), ("small", 8)])
@pytest.mark.parametrize("part", [2, 4])
def test_a_dilated_map_has_the_values_of_the_strided_one_in_its_places(name, stem, own, part):
    """Holes in the filters (a trous): what a stride leaves out is computed too, and what it computes is the same."""
    torch.manual_seed(0)
    encoder = Encoder(name, width=0.25, stem=stem, zero_init_residual=False).eval()
    with torch.no_grad():
        strided = encoder.map(images(2 * own))
        set_output_stride(encoder.backbone, own // part)
        dilated = encoder.map(images(2 * own))
        assert dilated.shape[2:] == (2 * part, 2 * part)
        # Other kernels, so rounded otherwise; each processor has its own.
        assert relative_error(dilated[..., ::part, ::part], strided) < 1e-5
        set_output_stride(encoder.backbone, 0)
        assert torch.equal(encoder.map(images(2 * own)), strided)


@pytest.mark.parametrize("recompute", ["none", "blocks", "all"])
def test_features_are_the_pooled_map_to_the_bit(recompute):
    encoder = Encoder("resnet10", width=0.25, stem="small", output_stride=4, recompute=recompute).eval()
    maps = encoder.map(images(32))
    assert maps.shape == (2, encoder.output_dim, 8, 8)
    assert torch.equal(encoder.pool(maps), encoder(images(32)))


def test_maps_of_a_network_without_them_are_refused():
    network = nn.Flatten()
    network.output_dim = 12
    encoder = Encoder.of(network, (0.5,) * 3, (0.5,) * 3)
    for needs in (lambda: encoder.map(images(2)), lambda: deeplab_v3(encoder, 3)):
        with pytest.raises(UserError, match=r"Flatten has no map\(pixels\)"):
            needs()


@pytest.mark.parametrize("stride", [16, 8])
def test_the_segmentation_network_is_torchvisions_deeplab_with_the_same_weights(stride):
    """But for its dropout; torchvision knows output stride 8 alone, so at 16 its parts are put together."""
    own = deeplab_v3(Encoder("resnet50", norm_layer=nn.BatchNorm2d), 5, output_stride=stride).eval()
    theirs = torchvision.models.segmentation.deeplabv3_resnet50(
        weights=None, weights_backbone=None, num_classes=5
    ).eval()
    if stride == 16:
        theirs.backbone = torchvision.models._utils.IntermediateLayerGetter(
            torchvision.models.resnet50(weights=None, replace_stride_with_dilation=[False, False, True]),
            {"layer4": "out"},
        ).eval()
        theirs.classifier = torchvision.models.segmentation.deeplabv3.DeepLabHead(2048, 5, (6, 12, 18)).eval()
    theirs.backbone.load_state_dict(own.encoder.backbone.state_dict())
    theirs.classifier.load_state_dict(own.classifier.state_dict())
    pixels = images(48)
    with torch.no_grad():
        expected = theirs((pixels / 255 - own.encoder.mean) / own.encoder.std)["out"]
        assert torch.allclose(own(pixels), expected, rtol=1e-5, atol=1e-6)
    assert expected.shape == (2, 5, 48, 48)


def test_a_segmentation_heads_start_depends_on_its_seed_alone_and_its_norms_are_grouped():
    def head(seed: int) -> nn.Module:
        torch.rand(seed + 1)  # what was drawn before has no part in it
        return deeplab_v3(Encoder("resnet10", width=0.125, stem="small"), 3, seed=seed, output_stride=4).classifier

    one, same, other = head(0), head(0), head(1)
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, same.state_dict()[name])
    assert not torch.equal(one[4].weight, other[4].weight)
    norms = [module for module in one.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    assert len(norms) == 7
    assert all(isinstance(norm, GroupedBatchNorm) for norm in norms)
    assert not any(isinstance(module, nn.Dropout) for module in one.modules())


def test_every_weight_of_a_segmentation_network_is_trained():
    network = deeplab_v3(Encoder("resnet10", width=0.125, stem="small"), 3)
    logits = network(images(16))
    nn.functional.cross_entropy(logits, torch.zeros(2, 16, 16, dtype=torch.int64)).backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


@pytest.mark.parametrize("zero", [True, False])
def test_residual_branches_start_at_zero_when_asked(zero):
    block = Encoder("resnet18", zero_init_residual=zero).backbone.layer1[0]
    assert bool((block.bn2.weight == 0).all()) == zero


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_the_head_is_the_official_codes(layers):
    head = projection_head(64, layers=layers, output_dim=16)
    linears = [module for module in head if isinstance(module, nn.Linear)]
    norms = [module for module in head if hasattr(module, "running_mean")]
    assert [linear.out_features for linear in linears] == [64] * (layers - 1) + [16]
    assert all(linear.bias is None for linear in linears)
    assert [norm.bias is None for norm in norms] == [False] * (layers - 1) + [True]
    assert sum(isinstance(module, nn.ReLU) for module in head) == layers - 1


def test_a_head_without_batch_norm_has_biases():
    head = projection_head(64, layers=2, hidden_dim=32, output_dim=16, batch_norm=False)
    assert [(m.in_features, m.out_features, m.bias is not None) for m in head if isinstance(m, nn.Linear)] == [
        (64, 32, True),
        (32, 16, True),
    ]
