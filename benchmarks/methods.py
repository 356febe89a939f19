"""A step of each method behind the encoder, beside lightly's heads and loss of the same method on the same features.

    pip install --no-deps --target DIR lightly
    PYTHONPATH=DIR python benchmarks/methods.py [--images 256] [--methods simclr byol] [--rounds 7]

One process, one thread, float32, features (views, images, 512) in place of the encoder. A step: heads of both networks,
loss, backward pass into heads and features, and the methods' own updates (average of the weights, queue); no optimizer.
Ours includes its metrics. Lightly's is called as its examples do (lightly_methods.py). It has no loss of memory_bank,
nor of supcon. Contenders are timed in turn in one process, and ratios are of one round.
"""

import argparse
import importlib.metadata
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from image_recipes import known_methods
from lightly_methods import LOSSES
from side_by_side import in_turn, ratio
from torch import Tensor, nn

from simclr_dist.config import load_config
from simclr_dist.data.loading.batch import blank_batch
from simclr_dist.methods.base import Method
from simclr_dist.methods.build import build_method

FEATURES = 512
KEYS: dict[str, tuple[str, ...]] = {
    "barlow_twins": ("hidden_dim=2048", "output_dim=2048"),
    "vicreg": ("hidden_dim=2048", "output_dim=2048"),
    "swav": ("small_views=2",),
}
"""Below recipe.method, where published sizes would take a core minutes; the peers have the same."""
Step = Callable[[], Tensor]


class Given(nn.Module):
    """In place of an encoder: features of its own for the views of each call, whatever the pixels."""

    def __init__(self, features: Tensor) -> None:
        super().__init__()
        self.features, self.next = features, 0
        self.weight = nn.Parameter(torch.zeros(1), requires_grad=False)  # for what follows the encoder's average

    def forward(self, images: Tensor) -> Tensor:
        first, self.next = self.next, self.next + len(images)
        return self.features[first : self.next]


def ours(name: str, features: Tensor, keys: Sequence[str], folder: Path) -> tuple[Method, Step]:
    """A step of this project's method; features are taken in the order in which it asks for views."""
    file = folder / "empty.yaml"
    file.write_text("recipe: {data: {source: digits}}\n")
    given = [f"recipe.method.name={name}", "recipe.encoder.name=resnet18", "recipe.data.image_size=8"]
    views = ["recipe.views.small.size=8"] if name == "swav" else []
    images = features.shape[1]
    settings = [f"recipe.global_batch_images={images}", *views, *(f"recipe.method.{key}" for key in keys)]
    recipe = load_config(str(file), [*given, *settings]).recipe
    method = build_method(recipe, 10 * images).to(features.device)
    encoders = [key for key, _ in method.named_children() if key.endswith("encoder")]
    batch = blank_batch(recipe, images, features.device)
    for key in encoders:
        setattr(method, key, Given(features.flatten(0, 1)))

    def step() -> Tensor:
        for key in encoders:
            getattr(method, key).next = 0
        with torch.no_grad():
            prepared = method.prepare(batch)
            targets = method.targets(prepared)
        found = method(prepared, targets)
        found.outputs["loss"].backward()
        with torch.no_grad():
            detached = {key: each.detach() for key, each in found.embeddings.items()}
            method.after_update(detached, targets, prepared, 0, 100)
        loss: Tensor = found.outputs["loss"].detach()
        return loss

    return method, step


def lightlys(name: str, method: Method, features: Tensor) -> tuple[nn.Module, Step]:
    """The same of lightly's heads and loss, of the sizes of ``method``."""
    parts = nn.ModuleDict()
    loss_of = LOSSES[name](method.config, features, parts)
    parts.to(features.device)

    def step() -> Tensor:
        loss = loss_of()
        loss.backward()
        return loss.detach()

    return parts, step


def trained(module: nn.Module) -> int:
    return sum(each.numel() for each in module.parameters() if each.requires_grad)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--methods", nargs="+", choices=known_methods(), default=known_methods())
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(1)
    on_gpu = options.device == "cuda"
    clock = time.perf_counter if on_gpu else time.process_time
    versions = ", ".join(f"{each} {importlib.metadata.version(each)}" for each in ("torch", "lightly"))
    print(f"{versions}; {options.images} images, {options.device}, median of {options.rounds} rounds")
    print(f"{'method':<13} {'ours, ms':>9} {'lightly, ms':>12}   lightly over ours")
    for name in options.methods:
        torch.manual_seed(0)
        views = 4 if name == "swav" else 2
        features = torch.randn(views, options.images, FEATURES, device=options.device, requires_grad=True)
        with TemporaryDirectory() as folder:
            method, step = ours(name, features, KEYS.get(name, ()), Path(folder))
        contenders = {"ours": step}
        peer = None
        if name in LOSSES:
            peer, contenders["lightly"] = lightlys(name, method, features)

        def timed(each: Step) -> Callable[[], None]:
            def run() -> None:
                each()
                if on_gpu:
                    torch.cuda.synchronize()

            return run

        seconds = in_turn({key: timed(each) for key, each in contenders.items()}, options.rounds, 2, clock)
        median = {key: f"{1000 * statistics.median(each):.1f}" for key, each in seconds.items()}
        if peer:
            beside = f"{ratio(seconds['lightly'], seconds['ours'])}; weights {trained(method):,} and {trained(peer):,}"
        else:
            beside = "lightly has no such loss"
        print(f"{name:<13} {median['ours']:>9} {median.get('lightly', '-'):>12}   {beside}", flush=True)


if __name__ == "__main__":
    main()
