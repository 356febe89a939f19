"""What saving costs a run: 20 steps with a checkpoint written meanwhile, or waited for, against 20 steps without one.

    python benchmarks/saving.py [--encoder resnet18] [--images 32] [--side 64] [--steps 20] [--rounds 10] [--folder DIR]

All take the same steps of the same trainer, in turn, in one process; data loading is left out. Each is timed until its
checkpoint is verified and has its name. Printed: the medians over rounds of the ratios of their times (saving / not
saving). Absolute times are shown for orientation only.
"""

import argparse
import itertools
import statistics
import tempfile

from random_steps import make_trainer, random_batch
from side_by_side import in_turn, ratio


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--encoder", default="resnet18")
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--folder", help="where to save: the disk that is to be measured")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        trainer = make_trainer(folder, options)
        batch = random_batch(trainer.config.recipe)
        numbers = itertools.count(1)

        def steps() -> None:
            for _ in range(options.steps):
                trainer.train_step(batch)

        def in_the_background() -> None:
            trainer.folder.begin_save(trainer.step.state, next(numbers))
            steps()
            trainer.folder.close()

        def waited_for() -> None:
            trainer.folder.finish_save(trainer.step.state, next(numbers))
            steps()

        contenders = {"background": in_the_background, "waited for": waited_for, "none": steps}
        seconds = in_turn(contenders, options.rounds)
        size = max(path.stat().st_size for path in trainer.folder.checkpoints.glob("step_*.pt"))
    print(
        f"{options.encoder}, {options.images} images of {options.side} pixels, {options.threads} thread(s), "
        f"a checkpoint of {size / 1e6:.0f} MB every {options.steps} steps"
    )
    print(f"saving in the background / not saving: {ratio(seconds['background'], seconds['none'])}")
    print(f"saving and waiting / not saving: {ratio(seconds['waited for'], seconds['none'])}")
    print("for orientation: " + ", ".join(f"{name} {statistics.median(each):.1f} s" for name, each in seconds.items()))


if __name__ == "__main__":
    main()
