"""The order of the images: a permutation of each epoch, shared among processes without a gap or a repeat."""

import tracemalloc
from collections import Counter
from itertools import permutations

import numpy as np
import pytest
from scipy import stats

from simclr_dist.data.loading.order import SampleOrder
from simclr_dist.random.permutation import permute

POWERS = [2**k + d for k in (2, 3, 4, 7, 10, 13) for d in (-1, 0, 1)]


def whole(size: int, seed: int = 0, epoch: int = 0) -> np.ndarray:
    return permute(np.arange(size), size, seed, epoch)


@pytest.mark.parametrize("size", sorted({1, 2, 3, 6, 100, 1437, 50_000, *POWERS}))
def test_every_image_has_exactly_one_position(size):
    for seed, epoch in ((0, 0), (1, 5)):
        np.testing.assert_array_equal(np.sort(whole(size, seed, epoch)), np.arange(size))


def test_a_position_is_answered_alone_as_among_others():
    order = whole(1000)
    positions = np.array([999, 3, 500, 3])
    np.testing.assert_array_equal(permute(positions, 1000, 0, 0), order[positions])


def test_asking_does_not_change_the_positions_that_were_asked_for():
    positions = np.arange(10)
    permute(positions, 10, 0, 0)
    np.testing.assert_array_equal(positions, np.arange(10))


@pytest.mark.parametrize(("seed", "epoch"), [(1, 0), (2**32, 0), (2**63 - 1, 0), (0, 1), (0, 1000)])
def test_another_seed_or_epoch_gives_an_unrelated_order(seed, epoch):
    size = 10_000
    first, other = whole(size), whole(size, seed, epoch)
    # Two unrelated orders agree in about one position.
    assert (first == other).sum() < 10
    assert abs(np.corrcoef(first, other)[0, 1]) < 4 / np.sqrt(size)


@pytest.mark.parametrize("size", [5, 16, 23])
def test_every_image_is_equally_likely_at_every_position(size):
    drawn = np.stack([whole(size, seed) for seed in range(1500)])
    for position in range(size):
        counts = np.bincount(drawn[:, position], minlength=size)
        assert stats.chisquare(counts).pvalue > 1e-4


@pytest.mark.parametrize("size", [3, 4, 5])
def test_all_orders_of_a_few_images_are_equally_likely(size):
    counts = Counter(tuple(whole(size, seed)) for seed in range(1500))
    assert stats.chisquare([counts[order] for order in permutations(range(size))]).pvalue > 1e-4


@pytest.mark.parametrize("size", [4096, 10_007, 65_537])
def test_neighbours_in_the_order_are_not_related(size):
    for seed in range(4):
        order = whole(size, seed)
        assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 4 / np.sqrt(size)
        assert abs(np.corrcoef(order, np.arange(size))[0, 1]) < 4 / np.sqrt(size)
        # Disjoint pairs of neighbours over a grid of 8 x 8 cells.
        cells = order[: size - size % 2].reshape(-1, 2) * 8 // size
        assert stats.chisquare(np.bincount(cells[:, 0] * 8 + cells[:, 1], minlength=64)).pvalue > 1e-4


@pytest.mark.parametrize("processes", [1, 2, 4, 8])
def test_the_shares_of_all_processes_are_the_global_batch_of_one(processes):
    order = SampleOrder(seed=3, images=100, global_batch_images=24)
    for step in range(9):
        shares = [order.samples(step, rank, processes) for rank in range(processes)]
        assert {len(share) for share in shares} == {24 // processes}
        np.testing.assert_array_equal(np.concatenate(shares), order.samples(step))


@pytest.mark.parametrize(("images", "batch"), [(100, 24), (96, 24), (24, 24), (25, 24), (1000, 1)])
def test_an_epoch_repeats_no_image_and_drops_less_than_a_batch(images, batch):
    order = SampleOrder(seed=0, images=images, global_batch_images=batch)
    steps = order.steps_per_epoch
    seen = np.concatenate([order.samples(step) for step in range(steps, 2 * steps)])
    assert len(np.unique(seen)) == len(seen)
    assert 0 <= images - len(seen) < batch
    assert [order.epoch(step) for step in (0, steps - 1, steps, 2 * steps)] == [0, 0, 1, 2]


def test_the_images_left_over_are_others_in_each_epoch():
    order = SampleOrder(seed=0, images=100, global_batch_images=30)
    dropped = []
    for epoch in range(40):
        seen = np.concatenate([order.samples(3 * epoch + step) for step in range(3)])
        dropped.append(frozenset(range(100)) - frozenset(seen.tolist()))
    assert len(set(dropped)) > 30
    assert len(frozenset.union(*dropped)) > 90  # 100 * (1 - 0.9 ** 40) = 98.5 on average


def test_an_epoch_walks_through_the_permutation_of_its_number():
    order = SampleOrder(seed=9, images=10, global_batch_images=5)
    for epoch in range(3):
        both = np.concatenate([order.samples(2 * epoch), order.samples(2 * epoch + 1)])
        np.testing.assert_array_equal(both, whole(10, 9, epoch))


def test_a_batch_of_a_billion_images_needs_no_memory_for_the_others():
    order = SampleOrder(seed=0, images=10**9, global_batch_images=4096)
    tracemalloc.start()
    samples = order.samples(order.steps_per_epoch - 1)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(np.unique(samples)) == 4096
    assert samples.min() >= 0
    assert samples.max() < 10**9
    assert peak < 1_000_000  # the batch itself is 32 kB; a list of all images would be 8 GB


def test_more_than_32_bits_of_images_are_reached():
    size = 2**40 + 1
    drawn = permute(np.arange(2000), size, 0, 0)
    assert len(np.unique(drawn)) == 2000
    assert stats.kstest(drawn / size, "uniform").pvalue > 1e-3
