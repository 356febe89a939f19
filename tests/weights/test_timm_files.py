"""Weights of timm's models, out and in: their own names, their own program, equal outputs."""

import json

import pytest
import timm
import torch
from safetensors.torch import save_file

from simclr_dist.config import Recipe
from simclr_dist.config.recipe import Data
from simclr_dist.config.recipe import Encoder as EncoderKeys
from simclr_dist.errors import UserError
from simclr_dist.methods.build import build_encoder
from simclr_dist.weights.export import export
from simclr_dist.weights.loaded import LoadedEncoder
from simclr_dist.weights.read import load_encoder
from tests.support.timm_families import FAMILIES

CONVNEXT = FAMILIES["ConvNeXt"]


def loaded_of(family: str) -> LoadedEncoder:
    name, options, _ = FAMILIES[family]
    recipe = Recipe(data=Data(image_size=32), encoder=EncoderKeys(name=f"timm/{name}", options=options))
    encoder = build_encoder(recipe)
    with torch.no_grad():
        for buffer in encoder.backbone.buffers():
            if buffer.is_floating_point() and buffer.dim() == 1:
                buffer.add_(torch.rand_like(buffer))  # running statistics that are not those of the start
    return LoadedEncoder(encoder=encoder.eval(), recipe=recipe, source="a run", steps_done=3)


def images() -> torch.Tensor:
    return torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("family", FAMILIES)
def test_an_export_has_timms_names_gives_equal_outputs_in_timms_own_model_and_is_read_back(tmp_path, family):
    loaded, file = loaded_of(family), tmp_path / "encoder.timm.safetensors"
    done = export(loaded, "timm", file)
    assert done.compared_with.startswith("timm ")
    assert done.max_difference < 1e-6
    name, options, _ = FAMILIES[family]
    model = timm.create_model(name, num_classes=0, **options)
    timm.models.load_checkpoint(model, str(file))  # strict
    again = load_encoder(file)
    assert again.recipe.encoder == loaded.recipe.encoder
    assert torch.equal(again.encoder(images()), loaded.encoder(images()))
    lines = json.loads(done.sidecar.read_text())["load"]
    assert lines[1].startswith(f"model = timm.create_model('{name}', num_classes=0")


def test_other_formats_say_where_timms_models_go(tmp_path):
    loaded = loaded_of("ConvNeXt")
    with pytest.raises(UserError, match="torchvision has no layout of timm/convnext_atto; take --to timm"):
        export(loaded, "torchvision", tmp_path / "encoder.pth")
    export(loaded, "safetensors", tmp_path / "own.safetensors")
    assert torch.equal(load_encoder(tmp_path / "own.safetensors").encoder(images()), loaded.encoder(images()))


def _file_of_timm(folder, classes: int = 10):
    torch.manual_seed(3)
    model = timm.create_model(CONVNEXT.name, num_classes=classes, **CONVNEXT.options).eval()
    save_file(model.state_dict(), folder / "model.safetensors")
    return model, folder / "model.safetensors"


def test_a_file_of_timms_is_read_by_the_name_of_its_model_without_its_classifier_and_may_be_passed_on(tmp_path):
    model, file = _file_of_timm(tmp_path)
    loaded = load_encoder(file, encoder=f"timm/{CONVNEXT.name}", options=CONVNEXT.options, image_size=32)
    pixels = loaded.encoder.normalised(images() / 255)
    expected = model.forward_head(model.forward_features(pixels), pre_logits=True)
    assert torch.allclose(loaded.encoder(images()), expected, atol=1e-6)
    assert any("normalised as timm's" in line for line in loaded.assumed)
    export(loaded, "safetensors", tmp_path / "imported.safetensors")
    again = load_encoder(tmp_path / "imported.safetensors")
    assert not again.recipe_known
    assert torch.equal(again.encoder(images()), loaded.encoder(images()))


def test_the_config_json_beside_a_file_names_its_model(tmp_path):
    _, file = _file_of_timm(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"architecture": CONVNEXT.name, "model_args": CONVNEXT.options}))
    assert load_encoder(file).recipe.encoder.name == f"timm/{CONVNEXT.name}"


def test_a_state_dict_within_a_checkpoint_is_found_by_its_names(tmp_path):
    model, _ = _file_of_timm(tmp_path)
    torch.save(
        {"epoch": 3, "state_dict": {f"module.{key}": each for key, each in model.state_dict().items()}},
        tmp_path / "x.pth",
    )
    loaded = load_encoder(tmp_path / "x.pth", encoder=f"timm/{CONVNEXT.name}", options=CONVNEXT.options)
    assert torch.equal(loaded.encoder.backbone.stem[0].weight, model.stem[0].weight)


def _networks_of_timm(folder, *prefixes):
    """A file with a network under each prefix, and the networks."""
    models = []
    for seed, prefix in enumerate(prefixes):
        torch.manual_seed(seed)
        model = timm.create_model(CONVNEXT.name, num_classes=10, **CONVNEXT.options)
        models.append({f"{prefix}{key}": each for key, each in model.state_dict().items()})
    torch.save({"state_dict": {key: each for model in models for key, each in model.items()}}, folder / "x.pth")
    return folder / "x.pth", models


def _loaded(file, **hints):
    return load_encoder(file, encoder=f"timm/{CONVNEXT.name}", options=CONVNEXT.options, **hints).encoder.backbone


@pytest.mark.parametrize("copy", ["teacher_backbone.", "ema.", "momentum_encoder."])
def test_of_a_network_and_its_second_copy_the_first_is_taken_wherever_each_stands(tmp_path, copy):
    for prefixes in (("student_backbone.", copy), (copy, "student_backbone.")):
        file, models = _networks_of_timm(tmp_path, *prefixes)
        wanted = models[prefixes.index("student_backbone.")]["student_backbone.stem.0.weight"]
        assert torch.equal(_loaded(file).stem[0].weight, wanted)
        copied = models[prefixes.index(copy)][f"{copy}stem.0.weight"]
        assert torch.equal(_loaded(file, prefix=f"state_dict.{copy}").stem[0].weight, copied)


def test_a_file_with_several_networks_of_timms_is_refused_with_their_prefixes(tmp_path):
    file, models = _networks_of_timm(tmp_path, "left.", "right.")
    with pytest.raises(UserError, match=r"x\.pth: there are 2 networks in it, under 'state_dict\.left\.', 'state_dict"):
        _loaded(file)
    assert torch.equal(_loaded(file, prefix="state_dict.right").stem[0].weight, models[1]["right.stem.0.weight"])


def test_a_resnet_of_timms_is_found_though_its_blocks_have_the_name_of_its_first_convolution(tmp_path):
    model = timm.create_model("resnet18", num_classes=10)
    torch.save({f"module.{key}": each for key, each in model.state_dict().items()}, tmp_path / "x.pth")
    loaded = load_encoder(tmp_path / "x.pth", encoder="timm/resnet18")
    assert torch.equal(loaded.encoder.backbone.conv1.weight, model.conv1.weight)


@pytest.mark.parametrize(
    ("hints", "line"),
    [
        ({}, "no ResNet in it.*--encoder timm/NAME"),
        ({"encoder": "convnext_atto"}, "--encoder: 'convnext_atto' is not timm/NAME"),
        ({"encoder": "timm/convnext_atto"}, "model.safetensors: .*give"),
        ({"encoder": "timm/resnet18"}, "is not of timm/resnet18, as conv1.weight"),
        ({"options": {"depths": [1]}}, "--option: is of the model that --encoder"),
        ({"encoder": "timm/convnext_atto", "stem_padding": 1}, "--stem-padding: is for ResNets"),
    ],
)  # fmt: skip
def test_a_file_that_is_not_of_the_model_is_refused_with_what_to_give(tmp_path, hints, line):
    _, file = _file_of_timm(tmp_path)
    with pytest.raises(UserError, match=line):
        load_encoder(file, **hints)
