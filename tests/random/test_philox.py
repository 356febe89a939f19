"""The random numbers: published answers, and a pure function of (seed, purpose, epoch, sample, stream)."""

import numpy as np
import pytest
from scipy import stats

from simclr_dist.random.philox import Purpose, philox4x32, random_words, uniforms

IDS = np.arange(500)


# The known answers of Random123 for philox4x32 with 10 rounds: counter, key (low word first), result.
@pytest.mark.parametrize(
    ("counter", "key", "answer"),
    [
        ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)
def test_philox_gives_the_published_answers(counter, key, answer):
    words = np.array([int(word, 16) for word in counter.split()], dtype=np.uint32)
    low, high = (int(word, 16) for word in key.split())
    assert [f"{word:08x}" for word in philox4x32(high << 32 | low, words)] == answer.split()


def test_counters_of_any_shape_are_answered_one_by_one():
    counters = np.random.default_rng(0).integers(0, 2**32, (3, 5, 4), dtype=np.uint32)
    together = philox4x32(7, counters)
    assert together.shape == counters.shape
    assert together.dtype == np.uint32
    alone = [[philox4x32(7, counters[i, j]) for j in range(5)] for i in range(3)]
    np.testing.assert_array_equal(together, alone)


def test_the_counter_is_made_of_the_id_the_epoch_and_the_purpose_as_every_stored_run_expects():
    # Another layout would change the trajectory of every recipe.
    sample, epoch, stream, seed = 5 + (3 << 32), 11, 2, 99 << 40
    words = random_words(seed, Purpose.VIEW, epoch, np.array([sample]), stream, 12)[0]
    last = [int(Purpose.VIEW) << 24 | stream << 16 | block for block in range(3)]
    counters = np.array([[5, 3, epoch, word] for word in last], dtype=np.uint32)
    np.testing.assert_array_equal(words, philox4x32(seed, counters).ravel())


def test_purposes_keep_their_numbers_as_every_stored_run_expects():
    assert (Purpose.ORDER, Purpose.VIEW, Purpose.SUBSTITUTE, Purpose.LABELS) == (1, 2, 3, 4)


def test_the_words_of_a_sample_do_not_depend_on_the_samples_drawn_with_it():
    order = np.random.default_rng(0).permutation(IDS)
    whole = random_words(1, Purpose.VIEW, 2, IDS, 0, 9)
    np.testing.assert_array_equal(random_words(1, Purpose.VIEW, 2, order, 0, 9), whole[order])
    np.testing.assert_array_equal(random_words(1, Purpose.VIEW, 2, IDS[7:8], 0, 9), whole[7:8])


@pytest.mark.parametrize("count", [1, 3, 4, 5, 24, 33])
def test_asking_for_fewer_words_gives_the_first_ones(count):
    words = random_words(1, Purpose.VIEW, 2, IDS, 0, count)
    assert words.shape == (len(IDS), count)
    np.testing.assert_array_equal(words, random_words(1, Purpose.VIEW, 2, IDS, 0, 40)[:, :count])


@pytest.mark.parametrize(
    "other",
    [
        (1 + 2**32, Purpose.VIEW, 2, IDS, 0),
        (2, Purpose.VIEW, 2, IDS, 0),
        (1, Purpose.LABELS, 2, IDS, 0),
        (1, Purpose.VIEW, 3, IDS, 0),
        (1, Purpose.VIEW, 2, IDS + 2**32, 0),
        (1, Purpose.VIEW, 2, IDS, 1),
        (1, Purpose.VIEW, 2, IDS, 255),
    ],
    ids=["high half of the seed", "seed", "purpose", "epoch", "high half of the id", "stream", "last stream"],
)
def test_every_argument_gives_numbers_of_its_own(other):
    base, others = random_words(1, Purpose.VIEW, 2, IDS, 0, 8), random_words(*other, 8)
    # 4,000 pairs of 32-bit words: even one equal pair has a chance of one in a million.
    assert not (base == others).any()
    assert abs(np.corrcoef(base.ravel(), others.ravel())[0, 1]) < 5 / np.sqrt(base.size)


def test_no_word_is_shared_between_seeds_epochs_samples_and_streams():
    drawn = [
        random_words(seed, purpose, epoch, np.arange(20), stream, 8)
        for seed in (0, 1)
        for purpose in (Purpose.ORDER, Purpose.VIEW)
        for epoch in (0, 1)
        for stream in (0, 1)
    ]
    blocks = np.concatenate(drawn).reshape(-1, 4)
    assert len(np.unique(blocks, axis=0)) == len(blocks)


@pytest.mark.parametrize("seed", [0, 1, 2**63 - 1])
def test_uniforms_are_uniform_in_the_half_open_unit_interval(seed):
    drawn = uniforms(seed, Purpose.VIEW, 0, np.arange(2000), 0, 10)
    assert drawn.min() >= 0
    assert drawn.max() < 1
    assert stats.kstest(drawn.ravel(), "uniform").pvalue > 1e-3


def test_the_largest_word_is_still_below_one():
    assert np.float64(2**32 - 1) * 2.0**-32 < 1
    drawn = uniforms(3, Purpose.VIEW, 0, IDS, 0, 6)
    np.testing.assert_array_equal(drawn * 2**32, random_words(3, Purpose.VIEW, 0, IDS, 0, 6))


def test_neighbouring_samples_and_words_are_not_correlated():
    drawn = uniforms(0, Purpose.VIEW, 0, np.arange(5000), 0, 12)
    correlations = np.corrcoef(np.concatenate((drawn[:-1], drawn[1:]), axis=1), rowvar=False)
    np.fill_diagonal(correlations, 0)
    assert np.abs(correlations).max() < 5 / np.sqrt(len(drawn))
