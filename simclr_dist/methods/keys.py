"""Keys of a second encoder: how their images change places for batch norm, and the queue that keeps them."""

import torch
from torch import Tensor

from simclr_dist.data.loading.batch import Batch
from simclr_dist.distributed.global_batch import global_batch, own_rows
from simclr_dist.losses.bank import log_sum_exp


class KeyShuffle:
    """The permutation of a global batch's keys, drawn from (seed, epoch, sample ids); none where it would do nothing.

    Args:
        purpose: what the numbers are drawn for.
        wanted: whether the recipe asks for it.
        group: images of a batch-norm group; 0: the global batch.
        batch: images of the global batch.
    """

    def __init__(self, purpose: str, wanted: bool, group: int, batch: int) -> None:
        self.purpose = purpose
        self.shuffles = wanted and 0 < group < batch

    def shuffled(self, keys: Tensor, batch: Batch) -> Tensor:
        """This process's part of the keys' views (images, ...) of all processes, in the order that is drawn."""
        if not self.shuffles:
            return keys
        return global_batch(keys, "shuffled views")[own_rows(self.permutation(batch))]

    def in_order(self, keys: Tensor, batch: Batch) -> Tensor:
        """The keys of all processes, (global images, ...), in the order of the global batch again."""
        everyone = global_batch(keys, "keys")
        return everyone[self.permutation(batch).argsort()] if self.shuffles else everyone

    def own_in_order(self, keys: Tensor, batch: Batch) -> Tensor:
        """Those of this process's images, (images, ...), in their order."""
        return own_rows(self.in_order(keys, batch)) if self.shuffles else keys

    def plainly_in_order(self, keys: Tensor, batch: Batch) -> Tensor:
        """The same in one process, in other words: for plain references."""
        if not self.shuffles:
            return keys
        drawn = batch.draws(self.purpose, 1)[:, 0].tolist()
        return keys[[sorted(drawn).index(number) for number in drawn]]

    def permutation(self, batch: Batch) -> Tensor:
        """Which image of the global batch stands at each place of the shuffled one, (global images,)."""
        return global_batch(batch.draws(self.purpose, 1)[:, 0], "shuffle").argsort(stable=True)


def refuse_short_queue(queue_keys: int, batch: int, of: str) -> None:
    """A queue must hold the keys of a global batch: ``batch`` of them, which come ``of`` these keys of the recipe.

    Raises:
        ValueError: it does not.
    """
    if queue_keys < batch:
        raise ValueError(
            f"recipe.method.queue_keys: {queue_keys} keys do not hold the {batch} of a global batch ({of}); raise it"
        )


def enqueue(queue: Tensor, place: Tensor, keys: Tensor) -> None:
    """Keys (n, d) take the place of the oldest of the queue (K, d), from ``place`` on, which moves behind them."""
    places = (place + torch.arange(len(keys), device=keys.device)) % len(queue)
    queue[places] = keys.to(queue.dtype)
    place.copy_((place + len(keys)) % len(queue))


def query_losses(queries: Tensor, keys: Tensor, queue: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Cross-entropy of each query's key among it and the queue (He et al. 2020, equation 1), and how many of the queue
    are no less similar: (rows,) each, of unit queries and keys (rows, d)."""
    positive = (queries * keys).sum(1) / temperature
    negatives, rank = log_sum_exp(queries, queue, temperature, positive.detach())
    return torch.logaddexp(negatives, positive) - positive, rank
