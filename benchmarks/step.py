"""What the trainer adds to a step: its step against the bare forward, loss, backward and optimizer of the same model.

    python benchmarks/step.py [--encoder resnet18] [--images 32] [--side 64] [--rounds 20]

Both take the same tensors, in turn, in one process; data loading is left out. Printed: the median over rounds of the
ratio of their times (trainer / bare). Absolute times are shown for orientation only.
"""

import argparse
import statistics
import tempfile

from random_steps import make_trainer, random_batch
from side_by_side import in_turn, ratio

from simclr_dist.methods.build import build_method
from simclr_dist.optim import make_optimizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--encoder", default="resnet18")
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(folder, options)
        recipe = trainer.config.recipe
        batch = random_batch(recipe)
        method = build_method(recipe, len(trainer.source))
        optimizer = make_optimizer(method, recipe.optimizer)

        def bare() -> None:
            for group in optimizer.param_groups:
                group["lr"] = 0.1
            method(batch).outputs["loss"].backward()
            optimizer.step()
            optimizer.zero_grad()

        seconds = in_turn({"trainer": lambda: trainer.train_step(batch), "bare": bare}, options.rounds, warm_up=2)
    print(f"{options.encoder}, {options.images} images of {options.side} pixels, {options.threads} thread(s)")
    print(f"trainer step / bare step: {ratio(seconds['trainer'], seconds['bare'])}")
    ours, theirs = (1000 * statistics.median(seconds[name]) for name in ("trainer", "bare"))
    print(f"for orientation: {ours:.0f} ms / {theirs:.0f} ms")


if __name__ == "__main__":
    main()
