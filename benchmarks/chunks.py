"""What gradient caching costs: a step chunk by chunk against the same chunks kept in one graph.

    python benchmarks/chunks.py [--encoder resnet18] [--images 64] [--chunk 16] [--side 64] [--rounds 8]

Both on the same tensors, in turn, in one process; printed is the median over rounds of the ratio of their times. One
graph computes each chunk once and keeps it; caching computes it twice and keeps one.
"""

import argparse

import torch
from random_steps import random_batch
from side_by_side import in_turn, ratio

from simclr_dist.config import Recipe
from simclr_dist.methods.build import build_method
from simclr_dist.models.statistics_group import divide_batch_norm
from simclr_dist.training.gradients import compute_gradients


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="resnet18")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--chunk", type=int, default=16)
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=8)
    options = parser.parse_args()
    torch.set_num_threads(1)
    recipe = Recipe(global_batch_images=options.images, batch_norm_group_images=options.chunk)
    recipe.encoder.name, recipe.data.image_size = options.encoder, options.side
    statistics_group = divide_batch_norm(options.chunk, options.images, 1, chunk_images=options.chunk)
    method = build_method(recipe, options.images, statistics_group)
    batch = random_batch(recipe)

    def cached() -> None:
        compute_gradients(method, method, batch, chunk_images=options.chunk)
        method.zero_grad()

    def one_graph() -> None:
        chunks = [method.embed(chunk)["z"] for chunk in batch.split(options.chunk)]
        method.loss({"z": torch.cat(chunks)}, {}, batch)["loss"].backward()
        method.zero_grad()

    seconds = in_turn({"cached": cached, "one graph": one_graph}, options.rounds)
    print(
        f"{options.encoder}, {options.images} images of {options.side} pixels in chunks of {options.chunk}, one thread"
    )
    print(f"gradient caching / one graph: {ratio(seconds['cached'], seconds['one graph'])}")


if __name__ == "__main__":
    main()
