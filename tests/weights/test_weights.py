"""Weights in and out: exports compute what we compute in other programs, foreign files what their networks compute."""

import errno
import json
import os
import pickle
import re
import subprocess
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors import safe_open
from safetensors.torch import save
from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from simclr_dist import __version__
from simclr_dist.config.loading import to_dict
from simclr_dist.config.registry import METHODS
from simclr_dist.errors import UserError
from simclr_dist.methods.build import build_method
from simclr_dist.run import checkpoint
from simclr_dist.storage.temporary import temporary_name
from simclr_dist.weights import formats
from simclr_dist.weights.architecture import build_encoder
from simclr_dist.weights.export import compare, export
from simclr_dist.weights.format import reference_outputs
from simclr_dist.weights.formats import FORMATS
from simclr_dist.weights.loaded import LoadedEncoder
from simclr_dist.weights.read import load_encoder
from tests.support.commands import NO_UTF8, run_command
from tests.support.full_disk import no_file_above
from tests.support.methods import method_config
from tests.support.processes import tiny_config

SIDE = 32
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
NETWORKS = {
    "resnet18": ["recipe.encoder.name=resnet18", "recipe.encoder.stem=imagenet", "recipe.encoder.width=1"],
    "resnet18 with a small stem": ["recipe.encoder.name=resnet18", "recipe.encoder.width=1"],
    "resnet50 of width 0.25": ["recipe.encoder.name=resnet50", "recipe.encoder.stem=imagenet"],
    "resnet10 of width 0.25 with a small stem": [],
    "resnet10 of output stride 2": ["recipe.encoder.output_stride=2"],
}


def images(count: int = 5, seed: int = 1, side: int = SIDE) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=generator)


def normalised(pixels: torch.Tensor, mean, std) -> torch.Tensor:
    return torchvision.transforms.functional.normalize(pixels / 255, mean, std)


def lived_in(network: nn.Module, inputs: torch.Tensor | None = None) -> nn.Module:
    """With batch norms that have seen images and gains that are not one, as after training."""
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            if module.weight is not None:
                nn.init.uniform_(module.weight, 0.5, 1.5)
            module.running_mean.uniform_(-0.3, 0.3)
            module.running_var.uniform_(0.5, 1.5)
    return network.eval()


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, Path]:
    """A run folder for each network, with a checkpoint of step 7."""
    folders = {}
    for name, overrides in NETWORKS.items():
        folder = tmp_path_factory.mktemp(name.replace(" ", "_"))
        colors = ["recipe.data.mean=[0.5,0.4,0.3]", "recipe.data.std=[0.2,0.25,0.3]"]
        recipe = tiny_config(folder, *overrides, *colors, f"recipe.data.image_size={SIDE}").recipe
        model = lived_in(build_method(recipe, images=1)).state_dict()
        checkpoint.save(folder / "checkpoints", {"recipe": to_dict(recipe), "model": model}, step=7, keep=1)
        folders[name] = folder
    return folders


def run_of(method: str, folder: Path, *overrides: str) -> Path:
    """The folder of a run of a method in its small sizes."""
    recipe = method_config(method, folder, *overrides).recipe
    model = lived_in(build_method(recipe, images=1)).state_dict()
    checkpoint.save(folder / "checkpoints", {"recipe": to_dict(recipe), "model": model}, step=7, keep=1)
    return folder


def test_of_two_heads_that_of_pooled_features_is_the_encoders(tmp_path):
    recipe = tiny_config(tmp_path, "recipe.method.name=densecl", "recipe.method.queue_keys=64").recipe
    method = lived_in(build_method(recipe, images=1))
    checkpoint.save(tmp_path / "checkpoints", {"recipe": to_dict(recipe), "model": method.state_dict()}, 7, keep=1)
    loaded = load_encoder(tmp_path)
    features = torch.randn(3, loaded.encoder.output_dim)
    assert torch.equal(loaded.projection(features), method.projection.pooled.eval()(features))
    back = load_encoder(export(loaded, "safetensors", tmp_path / "encoder.safetensors", with_head=True).path)
    assert torch.equal(back.projection(features), loaded.projection(features))


@pytest.mark.parametrize("method", METHODS)
def test_the_head_of_a_method_if_any_makes_one_row_of_each_images_features(tmp_path, method):
    loaded = load_encoder(run_of(method, tmp_path))
    for made in reference_outputs(loaded, images(side=8)):
        assert isinstance(made, torch.Tensor)
        assert (len(made), made.dim()) == (5, 2)


def test_dinos_head_ends_at_the_bottleneck_and_comes_back_from_an_export(tmp_path):
    loaded = load_encoder(run_of("dino", tmp_path))
    assert loaded.projection(torch.zeros(3, loaded.encoder.output_dim)).shape == (3, 16)
    back = load_encoder(export(loaded, "safetensors", tmp_path / "encoder.safetensors", with_head=True).path)
    assert all(map(torch.equal, reference_outputs(loaded, images(side=8)), reference_outputs(back, images(side=8))))
    with pytest.raises(UserError, match=r"^--with-head: torchvision's layout has no room for a head with GELU; take"):
        export(loaded, "torchvision", tmp_path / "encoder.pth", with_head=True)


@pytest.fixture
def run(runs) -> Path:
    return runs["resnet10 of width 0.25 with a small stem"]


@pytest.fixture(scope="module")
def exported(runs, tmp_path_factory) -> Path:
    """A file of safetensors that describes itself."""
    out = tmp_path_factory.mktemp("exported") / "encoder.safetensors"
    loaded = load_encoder(runs["resnet10 of width 0.25 with a small stem"])
    return export(loaded, "safetensors", out).path


def refusal(capsys, *arguments: object) -> str:
    """The one line of a command that is refused."""
    status, out, err = run_command(capsys, *arguments)
    assert (status, out) == (2, "")
    assert err.count("\n") == 1
    assert err.startswith("simclr-dist: ")
    return err


# ---------------------------------------------------------------------------------------------- out


def plain_torchvision(name: str) -> nn.Module:
    if name == "resnet50 of width 0.25":
        network = torchvision.models.resnet50()
        network.conv1, network.bn1 = nn.Conv2d(3, 16, 7, 2, 3, bias=False), nn.BatchNorm2d(16)
        network.inplanes = 16
        network.layer1 = network._make_layer(Bottleneck, 16, 3)
        network.layer2 = network._make_layer(Bottleneck, 32, 4, stride=2)
        network.layer3 = network._make_layer(Bottleneck, 64, 6, stride=2)
        network.layer4 = network._make_layer(Bottleneck, 128, 3, stride=2)
    else:
        network = torchvision.models.resnet18()
        if "small" in name:
            network.conv1, network.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    network.fc = nn.Identity()
    return network.eval()


@pytest.mark.parametrize("name", list(NETWORKS)[:3])
def test_an_export_loads_in_plain_torchvision_with_our_outputs(runs, tmp_path, name):
    loaded = load_encoder(runs[name])
    done = export(loaded, "torchvision", tmp_path / "encoder.pth")
    network = plain_torchvision(name)
    network.load_state_dict(torch.load(done.path, weights_only=True), strict=True)
    sidecar = json.loads(done.sidecar.read_text())
    with torch.inference_mode():
        ours, theirs = loaded.encoder(images()), network(normalised(images(), sidecar["mean"], sidecar["std"]))
    assert (ours - theirs).abs().max() <= 1e-5
    assert ours.std() > 0.01
    assert sidecar["image_size"] == SIDE


@pytest.mark.parametrize("name", list(NETWORKS))
def test_an_export_loads_in_timm_with_our_outputs(runs, tmp_path, name):
    timm = pytest.importorskip("timm")
    loaded = load_encoder(runs[name])
    done = export(loaded, "timm", tmp_path / "encoder.safetensors")
    assert done.compared_with.startswith("timm ")
    assert done.max_difference <= 1e-5
    if name == "resnet18":
        network = timm.create_model("resnet18", num_classes=0, checkpoint_path=str(done.path)).eval()
        with torch.inference_mode():
            theirs = network(normalised(images(), loaded.mean, loaded.std))
            assert (loaded.encoder(images()) - theirs).abs().max() <= 1e-5


@pytest.mark.parametrize("name", ["resnet18", "resnet10 of width 0.25 with a small stem"])
def test_an_export_runs_in_onnxruntime_with_our_outputs_for_any_number_of_rows(runs, tmp_path, name):
    for library in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(library)
    import onnxruntime

    loaded = load_encoder(runs[name])
    export(loaded, "onnx", tmp_path / "encoder.onnx", with_head=True)
    session = onnxruntime.InferenceSession(tmp_path / "encoder.onnx", providers=["CPUExecutionProvider"])
    for rows in (1, 5):
        outputs = session.run(["features", "embeddings"], {"images": (images(rows) / 255).numpy()})
        for expected, got in zip(reference_outputs(loaded, images(rows)), outputs, strict=True):
            # onnxruntime folds batch norm into the convolutions: it rounds elsewhere.
            assert (expected - torch.from_numpy(got)).abs().max() <= 1e-5 * max(1, float(expected.abs().max()))
    sidecar = json.loads(session.get_modelmeta().custom_metadata_map["simclr_dist"])
    assert sidecar["mean"] == loaded.mean
    assert sidecar["image_size"] == SIDE


@pytest.mark.parametrize("to", ["torchvision", "timm"])
def test_the_head_goes_along_as_fc_out_of_torchs_own_layers(runs, tmp_path, to):
    if to == "timm":
        pytest.importorskip("timm")
    loaded = load_encoder(runs["resnet50 of width 0.25"])
    done = export(loaded, to, tmp_path / f"encoder{FORMATS[to].suffix}", with_head=True)
    names = {"FILE": str(done.path)}
    exec("\n".join(json.loads(done.sidecar.read_text())["load"]), names)  # what the sidecar says to do
    with torch.inference_mode():
        embeddings = names["model"](normalised(images(), loaded.mean, loaded.std))
    assert (embeddings - reference_outputs(loaded, images())[1]).abs().max() <= 1e-5


@pytest.mark.parametrize("method", ["simsiam", "moco_v3"])
@pytest.mark.parametrize("to", ["torchvision", "timm"])
def test_a_head_whose_last_norm_has_neither_gain_nor_offset_goes_along_with_ones_and_zeros(tmp_path, to, method):
    if to == "timm":
        pytest.importorskip("timm")
    loaded = load_encoder(run_of(method, tmp_path))
    done = export(loaded, to, tmp_path / f"encoder{FORMATS[to].suffix}", with_head=True)
    names = {"FILE": str(done.path)}
    exec("\n".join(json.loads(done.sidecar.read_text())["load"]), names)
    last = list(names["model"].fc)[-1]
    assert torch.equal(last.weight, torch.ones_like(last.weight))
    assert torch.equal(last.bias, torch.zeros_like(last.bias))
    with torch.inference_mode():
        embeddings = names["model"](normalised(images(side=8), loaded.mean, loaded.std))
    assert (embeddings - reference_outputs(loaded, images(side=8))[1]).abs().max() <= 1e-5


@pytest.mark.parametrize("name", list(NETWORKS)[2:])
def test_safetensors_comes_back_bit_equal_with_head_and_recipe(runs, tmp_path, name):
    loaded = load_encoder(runs[name])
    back = load_encoder(export(loaded, "safetensors", tmp_path / "encoder.safetensors", with_head=True).path)
    assert all(map(torch.equal, loaded.encoder.state_dict().values(), back.encoder.state_dict().values()))
    assert all(map(torch.equal, loaded.projection.state_dict().values(), back.projection.state_dict().values()))
    assert all(map(torch.equal, reference_outputs(loaded, images()), reference_outputs(back, images())))
    for field in ("architecture", "image_size", "source", "recipe", "steps_done", "assumed", "mean", "std"):
        assert getattr(back, field) == getattr(loaded, field), field


def beginning_at(address: int, tensor: torch.Tensor) -> torch.Tensor:
    """A copy that begins so many bytes after a multiple of 64."""
    room = torch.empty(tensor.nbytes + 128, dtype=torch.uint8)
    start = -room.data_ptr() % 64 + address
    copy = room[start : start + tensor.nbytes].view(tensor.dtype).view(tensor.shape)
    return copy.copy_(tensor)


def test_outputs_do_not_depend_on_where_in_memory_the_tensors_of_a_file_lie(runs):
    loaded = load_encoder(runs["resnet50 of width 0.25"])
    outputs = []
    for address in (0, 8):  # safetensors aligns to 8 bytes; at 8 MKL's products round otherwise than at 0
        state = {key: beginning_at(address, value) for key, value in loaded.encoder.backbone.state_dict().items()}
        encoder = build_encoder(loaded.architecture, state, loaded.mean, loaded.std)
        assert {value.data_ptr() % 64 for value in encoder.state_dict().values()} == {0}
        outputs.append(encoder(images()))
    assert torch.equal(*outputs)


@pytest.mark.parametrize("to", ["torchvision", "timm"])
def test_exports_for_others_are_read_back_with_what_their_sidecar_or_metadata_says(runs, tmp_path, to):
    if to == "timm":
        pytest.importorskip("timm")
    loaded = load_encoder(runs["resnet10 of width 0.25 with a small stem"])
    back = load_encoder(export(loaded, to, tmp_path / f"encoder{FORMATS[to].suffix}").path)
    assert torch.equal(back.encoder(images()), loaded.encoder(images()))
    assert (back.mean, back.recipe, back.assumed) == (loaded.mean, loaded.recipe, ())


def test_an_export_does_not_tell_where_the_images_were(run, tmp_path):
    loaded = load_encoder(run)
    loaded.recipe.data.path = "/home/someone/photos"
    done = export(loaded, "safetensors", tmp_path / "encoder.safetensors")
    assert "someone" not in done.sidecar.read_text()
    assert b"someone" not in done.path.read_bytes()


def test_a_checkpoint_file_is_read_as_its_run_is(run):
    from_run, from_file = load_encoder(run), load_encoder(run / "checkpoints" / "last.pt")
    assert torch.equal(from_run.encoder(images()), from_file.encoder(images()))
    assert from_run.steps_done == from_file.steps_done == 7
    assert not from_run.encoder.training


# ---------------------------------------------------------------------------------------------- out, refused


@pytest.mark.parametrize("key", ["conv1.weight", "bn1.running_mean", "layer3.0.conv2.weight", "layer4.0.bn2.bias"])
def test_the_comparison_fails_when_a_tensor_of_the_file_is_altered(run, tmp_path, key):
    loaded = load_encoder(run)
    done = export(loaded, "torchvision", tmp_path / "encoder.pth")
    bare = LoadedEncoder(encoder=loaded.encoder, recipe=loaded.recipe, source="x", architecture=loaded.architecture)
    assert compare(FORMATS["torchvision"], done.path, bare) <= 1e-5
    state = torch.load(done.path, weights_only=True)
    state[key].view(-1)[0] += 0.1
    torch.save(state, done.path)
    with pytest.raises(UserError, match="differ from ours"):
        compare(FORMATS["torchvision"], done.path, bare)


@pytest.mark.parametrize("value", [1.01, float("nan")])
def test_nothing_stands_under_the_name_when_the_outputs_differ(capsys, monkeypatch, run, tmp_path, value):
    fc = formats._backbone
    monkeypatch.setattr(formats, "_backbone", lambda loaded: {key: t * value for key, t in fc(loaded).items()})
    assert "differ from ours" in refusal(
        capsys, "export", run, "--to", "torchvision", "--out", tmp_path / "encoder.pth"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("to", FORMATS)
def test_a_full_disk_is_named_whoever_writes_the_file(capsys, run, tmp_path, to):
    with no_file_above(1024):
        told = refusal(capsys, "export", run, "--to", to, "--out", tmp_path / f"e{FORMATS[to].suffix}")
    assert "cannot be written: File too large" in told
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("there", ["encoder.pth", "encoder.pth.json"])
def test_neither_file_is_overwritten(capsys, run, tmp_path, there):
    (tmp_path / there).write_text("mine")
    line = refusal(capsys, "export", run, "--to", "torchvision", "--out", tmp_path / "encoder.pth")
    assert f"{there}: is there already" in line
    assert "--" not in line  # import, which says the same, has no option for it
    assert [path.name for path in tmp_path.iterdir()] == [there]
    assert (tmp_path / there).read_text() == "mine"


@pytest.mark.parametrize(
    ("to", "name", "ending"),
    [
        ("torchvision", "x.safetensors", ".pth"),
        ("onnx", "x.safetensors", ".onnx"),
        ("timm", "x.pth", ".safetensors"),
        ("safetensors", "x", ".safetensors"),
    ],
)
def test_a_name_by_which_the_file_would_be_taken_for_another_format_is_refused(capsys, run, tmp_path, to, name, ending):
    line = refusal(capsys, "export", run, "--to", to, "--out", tmp_path / name)
    assert line.endswith(f"give one that ends with {ending}\n")
    assert list(tmp_path.iterdir()) == []


def test_a_name_taken_while_the_export_was_made_is_not_overwritten(monkeypatch, run, tmp_path):
    out = tmp_path / "encoder.pth"

    def taken(*arguments):
        out.write_text("another's")
        return 0.0

    monkeypatch.setattr("simclr_dist.weights.export.compare", taken)
    with pytest.raises(UserError, match="is there already"):
        export(load_encoder(run), "torchvision", out)
    assert [path.name for path in tmp_path.iterdir()] == ["encoder.pth"]
    assert out.read_text() == "another's"


@pytest.mark.parametrize(("to", "library"), [("timm", "timm"), ("onnx", "onnxruntime")])
def test_a_library_that_is_not_installed_is_named_with_the_extra(capsys, monkeypatch, run, tmp_path, to, library):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == library else object())
    line = refusal(capsys, "export", run, "--to", to, "--out", tmp_path / "encoder.x")
    assert f"{library} is not installed; pip install 'simclr_dist[export]'" in line
    assert list(tmp_path.iterdir()) == []


def test_export_by_command_line_names_the_file_after_the_step(capsys, run):
    status, out, err = run_command(capsys, "export", run, "--to", "safetensors", "--with-head")
    assert (status, err) == (0, "")
    assert (run / "encoder_000000007_with_head.safetensors.json").exists()
    assert "encoder_000000007_with_head.safetensors: outputs in simclr_dist" in out


# ---------------------------------------------------------------------------------------------- in


class GoogleV2(nn.Module):
    """The modules of Separius/SimCLRv2-Pytorch with sk_ratio 0, for their names and their order."""

    class Block(nn.Module):
        def __init__(self, inputs: int, channels: int, stride: int, first: bool) -> None:
            super().__init__()
            out = 4 * channels
            if first:
                self.projection = nn.Sequential()
                self.projection.add_module("shortcut", nn.Conv2d(inputs, out, 1, stride, bias=False))
                self.projection.add_module("bn", nn.Sequential(nn.BatchNorm2d(out)))
            layers = []
            for size, (came, left, step) in zip(
                (1, 3, 1), ((inputs, channels, 1), (channels, channels, stride), (channels, out, 1)), strict=True
            ):
                layers.append(nn.Conv2d(came, left, size, step, size // 2, bias=False))
                layers.append(nn.Sequential(nn.BatchNorm2d(left), nn.Identity() if left == out else nn.ReLU()))
            self.net = nn.Sequential(*layers)

        def forward(self, x):
            return torch.relu(self.net(x) + (self.projection(x) if hasattr(self, "projection") else x))

    def __init__(self) -> None:
        super().__init__()
        stem = nn.Sequential(
            nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.Sequential(nn.BatchNorm2d(64), nn.ReLU()), nn.MaxPool2d(3, 2, 1)
        )
        stages, inputs = [], 64
        for number, count in enumerate((3, 4, 6, 3)):
            stage = nn.Module()
            stage.blocks = nn.ModuleList()
            for block in range(count):
                stride = 2 if number and not block else 1
                stage.blocks.append(self.Block(inputs, 64 * 2**number, stride, block == 0))
                inputs = 256 * 2**number
            stage.forward = nn.Sequential(*stage.blocks).forward
            stages.append(stage)
        self.net = nn.Sequential(stem, *stages)
        self.fc = nn.Linear(2048, 10)

    def forward(self, x):
        return self.net(x).mean(dim=[2, 3])


def prefixed(prefix: str, state: dict) -> dict:
    return {f"{prefix}{key}": value for key, value in state.items()}


def resnet(name: str = "resnet18", padding: int | None = None) -> nn.Module:
    network = lived_in(torchvision.models.get_model(name))
    if padding is not None:
        network.conv1, network.maxpool = nn.Conv2d(3, 64, 3, padding=padding, bias=False), nn.Identity()
    return network


def without_fc(network: nn.Module) -> nn.Module:
    network.fc = nn.Identity()
    return network


def of_torchvision():
    return resnet(), lambda n: n.state_dict()


def of_torchvision_before_counters():
    return resnet(), lambda n: {key: value for key, value in n.state_dict().items() if "num_batches" not in key}


def of_moco():
    other = prefixed("module.encoder_k.", resnet().state_dict())
    return resnet(), lambda n: {"state_dict": {**other, **prefixed("module.encoder_q.", n.state_dict())}, "epoch": 3}


def of_solo_learn():
    heads = {"classifier.weight": torch.ones(10, 512), "projector.0.weight": torch.ones(8, 512)}
    # The momentum methods' second copy comes first on purpose.
    second = prefixed("momentum_backbone.", resnet().state_dict())
    return without_fc(resnet()), lambda n: {
        "state_dict": {**second, **prefixed("backbone.", n.state_dict()), **heads},
        "optimizer_states": [{"state": {0: torch.ones(3)}}],
    }


def of_solo_learn_for_cifar():
    heads = {"classifier.weight": torch.ones(10, 512)}
    return without_fc(resnet(padding=2)), lambda n: {"state_dict": {**prefixed("encoder.", n.state_dict()), **heads}}


def of_lightly():
    heads = {"projection_head.layers.0.weight": torch.ones(8, 512), "projection_head.layers.1.weight": torch.ones(8)}
    return resnet(), lambda n: {
        "state_dict": {**prefixed("backbone.", nn.Sequential(*list(n.children())[:-1]).state_dict()), **heads}
    }


def of_lightlys_own_resnet():
    names = (("downsample", "shortcut"), ("fc.", "linear."))
    return resnet(padding=1), lambda n: {
        f"backbone.{key.replace(*names[0]).replace(*names[1])}": value for key, value in n.state_dict().items()
    }


def of_vissl():
    return resnet("resnet50"), lambda n: {
        "classy_state_dict": {
            "base_model": {
                "model": {
                    "trunk": prefixed("_feature_blocks.", without_fc(n).state_dict()),
                    "heads": {"0.clf.0.weight": torch.ones(10, 2048), "0.clf.0.bias": torch.ones(10)},
                }
            }
        },
        "iteration": 5,
    }


def of_vissls_feature_evaluation():
    return resnet(), lambda n: prefixed("trunk.base_model._feature_blocks.", without_fc(n).state_dict())


def of_google_v1():
    return resnet("resnet50"), lambda n: {"state_dict": n.state_dict()}


def of_google_v2():
    return lived_in(GoogleV2()), lambda n: {
        "resnet": n.state_dict(),
        "head": {"layers.0.weight": torch.ones(8, 8), "layers.1.weight": torch.ones(8)},
    }


def of_half_precision():
    return resnet().half().float(), lambda n: {"model": {key: v.half() for key, v in n.state_dict().items()}}


FOREIGN = {
    of_torchvision: "torchvision layout",
    of_torchvision_before_counters: "torchvision layout",
    of_moco: "torchvision layout",
    of_solo_learn: "solo-learn",
    of_solo_learn_for_cifar: "solo-learn",
    of_lightly: "lightly",
    of_lightlys_own_resnet: "torchvision layout",
    of_vissl: "VISSL",
    of_vissls_feature_evaluation: "VISSL",
    of_google_v1: "Google's SimCLR v1",
    of_google_v2: "Google's SimCLR v2",
    of_half_precision: "torchvision layout",
}


@pytest.mark.parametrize("made", FOREIGN, ids=[made.__name__ for made in FOREIGN])
def test_a_foreign_file_computes_what_its_own_network_computes(tmp_path, made):
    network, file = made()
    torch.save(file(network), tmp_path / "foreign.pth")
    loaded = load_encoder(tmp_path / "foreign.pth")
    assert FOREIGN[made] in loaded.source
    network.fc = nn.Identity()
    # Google's networks take pixels in 0..1 as they are.
    pixels = images() / 255 if "Google" in loaded.source else normalised(images(), *IMAGENET)
    with torch.inference_mode():
        expected = network(pixels)
        assert (loaded.encoder(images()) - expected).abs().max() <= 1e-5 * max(1, float(expected.abs().max()))
    assert expected.std() > 0.01
    assert loaded.assumed


def test_an_imported_file_keeps_its_outputs_and_what_was_assumed(capsys, tmp_path):
    network, file = of_solo_learn_for_cifar()
    torch.save(file(network), tmp_path / "foreign.ckpt")
    arguments = ("--mean", "0.4914,0.4822,0.4465", "--std", "0.247,0.2435,0.2616", "--image-size", "32")
    out = tmp_path / "own.safetensors"
    status, said, _ = run_command(capsys, "import", tmp_path / "foreign.ckpt", out, *arguments)
    assert status == 0
    assert said.startswith("foreign.ckpt (solo-learn): resnet18, 3x3 stem\n  assumed: padding 2")
    back = load_encoder(out)
    pixels = normalised(images(), (0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616))
    with torch.inference_mode():
        assert (back.encoder(images()) - network(pixels)).abs().max() <= 1e-5
    assert back.architecture.stem_padding == 2
    done = export(back, "torchvision", tmp_path / "again.pth")
    assert "padding=2" in done.sidecar.read_text()


def test_wide_networks_are_recognised_by_their_shapes(tmp_path):
    torch.save(
        {"state_dict": build_method(tiny_recipe(tmp_path, 0.5), images=1).encoder.backbone.state_dict()}, tmp_path / "w"
    )
    assert str(load_encoder(tmp_path / "w").architecture) == "resnet10 0.5x, 3x3 stem"


def tiny_recipe(folder: Path, width: float):
    return tiny_config(folder, f"recipe.encoder.width={width}").recipe


# ---------------------------------------------------------------------------------------------- in, refused


def tampered(change) -> dict:
    state = torchvision.models.resnet18().state_dict()
    change(state)
    return state


class Evil:
    def __reduce__(self):
        return Path.touch, (Path("touched"),)


REFUSED = {
    "a key is missing": (lambda: tampered(lambda s: s.pop("layer3.1.bn2.weight")), "layer3.1.bn2.weight is missing"),
    "the stem is missing": (lambda: tampered(lambda s: s.pop("conv1.weight")), "conv1.weight is missing"),
    "several keys are missing": (
        lambda: tampered(lambda s: [s.pop(key) for key in list(s) if "layer2.1" in key and "weight" in key]),
        "layer2.1.conv1.weight, layer2.1.bn1.weight, layer2.1.conv2.weight and 1 more keys are missing",
    ),
    "a wrong shape": (
        lambda: tampered(lambda s: s.update({"layer1.0.conv1.weight": torch.ones(64, 64, 5, 5)})),
        "layer1.0.conv1.weight has the shape (64, 64, 5, 5), resnet18, 7x7 stem has (64, 64, 3, 3) there",
    ),
    "wider inside, as wide_resnet50_2": (
        lambda: ResNet(Bottleneck, [3, 4, 6, 3], width_per_group=8).state_dict(),
        "layer1.0.conv1.weight has",
    ),
    "no known depth": (
        lambda: ResNet(BasicBlock, [1, 2, 1, 1]).state_dict(),
        "BasicBlocks in stages of 1, 2, 1, 1 are no ResNet known here (resnet10, ",
    ),
    "a grey stem": (lambda: tampered(lambda s: s.update({"conv1.weight": torch.ones(64, 1, 7, 7)})), "(64, 1, 7, 7)"),
    "an extra part": (
        lambda: tampered(lambda s: s.update({"layer1.0.se.fc.weight": torch.ones(3)})),
        "'layer1.0.se.fc.weight' is no part of a plain ResNet",
    ),
    "another network": (
        lambda: torchvision.models.squeezenet1_1().state_dict(),
        "no ResNet in it: its tensors are 'feat",
    ),
    "no tensors": (lambda: {"epoch": 3}, "no ResNet in it: its tensors are none"),
    "selective kernels": (lambda: {"resnet": {"net.1.blocks.0.net.2.mixing_conv.0.weight": torch.ones(3)}}, "sk0"),
    "lightly's stem without ReLU": (lambda: {"backbone.2.0.conv1.weight": torch.ones(3)}, "no ReLU after its stem"),
    "two networks": (
        lambda: (
            prefixed("a.", torchvision.models.resnet18().state_dict())
            | prefixed("b.", torchvision.models.resnet18().state_dict())
        ),
        "2 networks in it, under 'a.', 'b.'; choose one with --prefix",
    ),
    "code": (lambda: {"state_dict": Evil()}, "code of a file is never run"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_foreign_file_that_does_not_fit_is_refused_with_one_line(capsys, monkeypatch, tmp_path, name):
    make, said = REFUSED[name]
    monkeypatch.chdir(tmp_path)
    torch.save(make(), "foreign.pth")
    line = refusal(capsys, "import", "foreign.pth", "out.safetensors")
    assert line.startswith("simclr-dist: foreign.pth: ")
    assert said in line
    assert [path.name for path in tmp_path.iterdir()] == ["foreign.pth"]


def test_a_prefix_chooses_among_several_networks(tmp_path):
    first, second = resnet(), torchvision.models.resnet18()
    torch.save({**prefixed("a.", second.state_dict()), **prefixed("b.", first.state_dict())}, tmp_path / "two.pth")
    loaded = load_encoder(tmp_path / "two.pth", prefix="b")
    assert torch.equal(loaded.encoder.backbone.layer4[1].bn2.weight, first.layer4[1].bn2.weight)
    with pytest.raises(UserError, match=r"no network under 'c'; there are 'a\.', 'b\.'"):
        load_encoder(tmp_path / "two.pth", prefix="c")


def test_no_code_of_a_bare_pickle_runs(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    Path("evil.pth").write_bytes(pickle.dumps(Evil()))
    refusal(capsys, "import", "evil.pth", "out.safetensors")
    assert not Path("touched").exists()


@pytest.mark.parametrize("name", ["foreign.pth", "own.safetensors", "checkpoint.pt"])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.6, 0.999])
def test_a_file_that_is_cut_off_is_refused_with_one_line(capsys, run, tmp_path, name, share):
    whole = tmp_path / name
    if name == "foreign.pth":
        torch.save(load_encoder(run).encoder.backbone.state_dict(), whole)
    elif name == "own.safetensors":
        export(load_encoder(run), "safetensors", whole)
    else:
        whole.write_bytes((run / "checkpoints" / "last.pt").read_bytes())
    content = whole.read_bytes()
    whole.write_bytes(content[: int(share * len(content))])
    assert name in refusal(capsys, "import", whole, tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


WRONG_DESCRIPTIONS: list[object] = [
    5, [], {}, "x", {"format": "1"}, {"format": 1}, ("architecture", 5), ("architecture", {"name": 5}), ("mean", [0.5]),
    ("mean", "abc"), ("std", [0, 1, 1]), ("recipe", 7), ("recipe", {"epochs": []}), ("image_size", "32"),
    ("head", None), ("assumed", 3), ("steps_done", "many"), ("source", None), ("format", True),
]  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG_DESCRIPTIONS, ids=str)
def test_a_description_of_a_wrong_form_is_one_line_that_names_the_file(exported, tmp_path, wrong):
    with safe_open(exported, framework="pt") as file:
        tensors, metadata = {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118
    known = {**json.loads(metadata["simclr_dist"]), wrong[0]: wrong[1]} if isinstance(wrong, tuple) else wrong
    path = tmp_path / "x.safetensors"
    path.write_bytes(save(tensors, metadata={"simclr_dist": json.dumps(known)}))
    with pytest.raises(UserError, match=f"^{path}: ") as refused:
        load_encoder(path)
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize("text", ["[" * 100_000, "{", "no"], ids=len)
def test_a_description_that_is_no_json_is_one_line(exported, tmp_path, text):
    path = tmp_path / "x.safetensors"
    path.write_bytes(save({"a": torch.zeros(1)}, metadata={"simclr_dist": text}))
    with pytest.raises(UserError, match=r"its description is no JSON"):
        load_encoder(path)


def test_what_a_killed_export_left_is_removed_by_the_next_one_and_what_lives_is_left(exported, tmp_path):
    loaded = load_encoder(str(exported))
    dead = subprocess.Popen(["true"])
    dead.wait()
    other = tmp_path / "other.safetensors"
    own = temporary_name(other, suffix_last=True), temporary_name(other)
    of_dead = [path.with_name(path.name.replace(f"_{os.getpid()}_", f"_{dead.pid}_")) for path in own]
    of_others = [path.with_name(re.sub(r"[0-9a-f]{8}_\d+_", "00000000_1_", path.name)) for path in own]
    earlier = tmp_path / ".tmp.17.x.safetensors"
    mine = tmp_path / ".notes.tmp"
    for path in (*own, *of_dead, *of_others, earlier, mine):
        path.write_text("half")
    for old in (*own, of_others[0], earlier, mine):
        os.utime(old, (1, 1))
    export(loaded, "safetensors", str(tmp_path / "again.safetensors"))
    left = {path for path in (*own, *of_dead, *of_others, earlier, mine) if path.exists()}
    assert left == {*own, of_others[1], mine}


def test_a_string_is_a_path_and_an_unknown_format_is_refused(exported, tmp_path):
    loaded = load_encoder(str(exported))
    assert export(loaded, "timm", str(tmp_path / "x.safetensors")).path == tmp_path / "x.safetensors"
    with pytest.raises(UserError, match="'tensorflow' is no format"):
        export(loaded, "tensorflow", tmp_path / "x.y")


def test_a_file_that_cannot_be_read_now_is_not_taken_for_another_projects(exported, tmp_path, monkeypatch):
    opened = Path.open

    def failing(path, *arguments, **named):
        if path == exported:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return opened(path, *arguments, **named)

    monkeypatch.setattr(Path, "open", failing)
    with pytest.raises(UserError, match=f"^{exported}: cannot be read: Input/output error; "):
        load_encoder(exported)


def test_a_checkpoint_with_a_flipped_byte_is_refused(capsys, run, tmp_path):
    content = bytearray((run / "checkpoints" / "last.pt").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "flipped.pt").write_bytes(content)
    line = refusal(capsys, "export", tmp_path / "flipped.pt", "--to", "torchvision")
    assert "checksum does not match" in line


MISTAKES = [
    (["export", ".", "--to", "torchvision"], "no checkpoint"),
    (["export", "nowhere", "--to", "torchvision"], "nowhere: no such file"),
    (["export", "RUN", "--to", "tensorflow"], "'tensorflow'"),
    (["export", "RUN"], "--to"),
    (["export", "RUN", "--to", "torchvision", "--out", "nowhere/x.pth"], "its folder is not there"),
    (["import", "nowhere", "x.safetensors"], "nowhere: no such file"),
    (["import", "RUN", "x.pth"], "ends with .safetensors"),
    (["import", "RUN", "x.safetensors", "--mean", "1,2"], "--mean: '1,2'"),
    (["import", "RUN", "x.safetensors", "--std", "1,2,0"], "--std: '1,2,0'"),
    (["import", "RUN", "x.safetensors", "--image-size", "32"], "says by itself what --image-size would"),
]


@pytest.mark.parametrize(("arguments", "named"), MISTAKES, ids=[" ".join(arguments) for arguments, _ in MISTAKES])
def test_a_mistake_is_one_line(capsys, monkeypatch, run, tmp_path, arguments, named):
    monkeypatch.chdir(tmp_path)
    assert named in refusal(capsys, *[run if word == "RUN" else word for word in arguments])


def test_a_head_that_is_not_there_cannot_be_exported(capsys, tmp_path):
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "foreign.pth")
    out = tmp_path / "x.pth"
    line = refusal(capsys, "export", tmp_path / "foreign.pth", "--to", "torchvision", "--out", out, "--with-head")
    assert "has no projection head" in line


def test_our_own_format_needs_no_installed_package_to_say_its_version(monkeypatch):
    def not_installed(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.version", not_installed)
    assert FORMATS["safetensors"].library() == f"simclr_dist {__version__}"


def test_a_path_that_is_no_utf8_is_one_line_where_a_library_cannot_open_it_and_a_file_where_it_can(tmp_path, capsys):
    folder, file = tmp_path / NO_UTF8, tmp_path / "resnet18.pth"
    folder.mkdir()
    torch.save(torchvision.models.resnet18().state_dict(), file)
    for to in FORMATS:
        status, _, told = run_command(
            capsys, "export", file, "--to", to, "--out", folder / f"encoder{FORMATS[to].suffix}"
        )
        assert (status, "not all of this path is UTF-8" in told) == ((0, False) if to == "torchvision" else (2, True))
    moved = file.rename(folder / "resnet18.pth")
    assert run_command(capsys, "import", moved, tmp_path / "ours.safetensors")[0] == 0
    (tmp_path / "ours.safetensors").rename(folder / "ours.safetensors")
    status, _, told = run_command(capsys, "import", folder / "ours.safetensors", tmp_path / "again.safetensors")
    assert (status, "not all of this path is UTF-8" in told) == (2, True)
