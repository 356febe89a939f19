"""A real run at a global batch of 4096 on a small machine: two processes, chunks, and what memory they took.

    python benchmarks/large_batch.py [--chunks 64 256] [--steps 3] [--group 64]

ResNet-18 on 32 x 32 patches of scikit-learn's two photographs, batch norm over groups of 64 images in every run. It
prints each run's losses and peak memory a process; the losses of runs with different chunks must agree.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

PATCH = 32

MEASURED = """
import resource, sys
from simclr_dist.cli.main import main
try:
    main(sys.argv[1:])
finally:
    print(f"peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GB", flush=True)
"""


def write_patches(folder: Path, count: int) -> None:
    """Overlapping patches of the two photographs as PNG files."""
    photographs = load_sample_images().images
    places = [
        (number, top, left)
        for number, photograph in enumerate(photographs)
        for top in range(0, photograph.shape[0] - PATCH, 10)
        for left in range(0, photograph.shape[1] - PATCH, 10)
    ]
    assert len(places) >= count, "a smaller stride is needed"
    folder.mkdir()
    for index in np.linspace(0, len(places) - 1, count).astype(int):
        number, top, left = places[index]
        Image.fromarray(photographs[number][top : top + PATCH, left : left + PATCH]).save(folder / f"{index:05d}.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chunks", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--group", type=int, default=64)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_patches(root / "patches", 4096)
        (root / "large.yaml").write_text("recipe: {}\n")
        losses = {}
        for chunk in options.chunks:
            settings = {
                "recipe.data.source": "folder",
                "recipe.data.path": root / "patches",
                "recipe.data.image_size": PATCH,
                "recipe.encoder.name": "resnet18",
                "recipe.batch_norm_group_images": options.group,
                "machine.run_dir": root / str(chunk),
                "machine.images_per_chunk": chunk,
                "machine.threads_per_process": 1,
                "machine.loader_workers": 0,
                "machine.stop_after_steps": options.steps,
            }
            command = ["pretrain", str(root / "large.yaml"), *(f"{key}={value}" for key, value in settings.items())]
            torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
            (root / "measured.py").write_text(MEASURED)
            done = subprocess.run(
                [*torchrun, str(root / "measured.py"), *command], capture_output=True, text=True, check=True
            )
            peaks = [line for line in done.stdout.splitlines() if line.startswith("peak")]
            lines = [json.loads(line) for line in (root / str(chunk) / "metrics.jsonl").read_text().splitlines()]
            losses[chunk] = [line["loss"] for line in lines]
            print(f"chunks of {chunk}: losses {losses[chunk]}, a process {', '.join(peaks)}", flush=True)
        first, *others = losses.values()
        apart = max(abs(a - b) / a for other in others for a, b in zip(first, other, strict=True))
        print(f"largest relative difference of a loss: {apart:.1e}")


if __name__ == "__main__":
    main()
