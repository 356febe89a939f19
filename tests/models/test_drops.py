"""What is dropped by chance: a function of seed, epoch, sample id, view, call and layer, at its rate."""

import copy

import pytest
import torch
from torch import Tensor, nn

from simclr_dist.data.loading.batch import Batch
from simclr_dist.models.drops import Dropout, DropPath, Drops, PatchDropout, drawing, random_bits

KEYS = torch.tensor([[3, 2**32 - 1], [2**31, 0], [0, 0]])


class Dropping(nn.Module):
    """Ones, with what one layer drops of them."""

    def __init__(self, layer: str = "features") -> None:
        super().__init__()
        self.drops = Drops()
        self.layer: nn.Module = {
            "paths": lambda: DropPath(self.drops, 0, 0.5),
            "features": lambda: Dropout(self.drops, 1, 0.25),
            "channels": lambda: Dropout(self.drops, 2, 0.5, whole_channels=True),
            "patches": lambda: PatchDropout(self.drops, 3, 0.5, 1, ordered=True, gives_indices=False),
        }[layer]()

    def forward(self, rows: int, *shape: int, several: int = 1) -> Tensor:
        with self.drops.call(rows):
            return self.layer(torch.arange(1.0, 1 + rows * several).view(-1, *(1,) * len(shape)).expand(-1, *shape))


def batch_of(samples: list[int], epoch: int = 0, seed: int = 0) -> Batch:
    views = {"global": torch.zeros(len(samples), 1, 3, 8, 8, dtype=torch.uint8)}
    return Batch(views=views, samples=torch.tensor(samples), epoch=epoch, seed=seed)


def made(network: Dropping, batch: Batch, *shape: int, views: int = 1, several: int = 1) -> Tensor:
    with drawing(network, batch):
        return network(len(batch) * views, *shape, several=several)


def zeros(made: Tensor) -> Tensor:
    return made == 0


@pytest.mark.parametrize("layer", ["paths", "features", "channels"])
def test_what_is_dropped_of_an_image_does_not_depend_on_the_images_beside_it(layer):
    network = Dropping(layer)
    whole = zeros(made(network, batch_of([5, 6, 7, 8]), 16, 3, views=2))
    parts = [zeros(made(network, batch_of(samples), 16, 3, views=2)) for samples in ([5, 6], [7, 8])]
    assert torch.equal(whole, torch.cat(parts))
    other_order = zeros(made(network, batch_of([8, 5]), 16, 3, views=2))
    assert torch.equal(other_order, torch.cat([whole[6:], whole[:2]]))
    assert whole.any()


@pytest.mark.parametrize("other", [batch_of([9]), batch_of([5], epoch=1), batch_of([5], seed=1)])
def test_another_sample_epoch_or_seed_drops_something_else(other):
    network = Dropping()
    assert not torch.equal(zeros(made(network, batch_of([5]), 64)), zeros(made(network, other, 64)))


def test_another_view_call_or_layer_drops_something_else():
    network = Dropping()
    first, second = zeros(made(network, batch_of([5]), 64, views=2))
    assert not torch.equal(first, second)
    with drawing(network, batch_of([5])):
        of_calls = [zeros(network(1, 64)) for _ in range(2)]
    assert not torch.equal(*of_calls)
    network.layer.place = 2
    assert not torch.equal(first, zeros(made(network, batch_of([5]), 64))[0])


def test_drawing_begins_anew_so_that_a_second_pass_drops_the_same():
    network = Dropping()
    assert torch.equal(made(network, batch_of([5, 6]), 64), made(network, batch_of([5, 6]), 64))


def test_rows_of_a_layer_that_has_several_for_an_image_belong_to_their_image():
    network = Dropping()
    both = zeros(made(network, batch_of([5, 6]), 16, several=4))
    assert torch.equal(both, torch.cat([zeros(made(network, batch_of([each]), 16, several=4)) for each in (5, 6)]))
    assert not torch.equal(both[0], both[1])


def test_rates_are_kept_and_the_mean_is_left_as_it_was():
    network, batch = Dropping(), batch_of(list(range(64)))
    with drawing(network, batch), network.drops.call(64):
        kept = network.layer(torch.ones(64, 1000))
    assert 0.245 < zeros(kept).double().mean() < 0.255  # 0.25 with a deviation of 0.0017
    assert kept.unique().tolist() == pytest.approx([0.0, 4 / 3])


def test_bits_of_neighbouring_keys_and_columns_are_not_alike():
    bits = random_bits(torch.stack([torch.arange(512), torch.zeros(512, dtype=torch.int64)], dim=1), 0, 512)
    assert int(bits.min()) >= 0
    assert int(bits.max()) < 2**32
    for bit in (0, 7, 31):
        signs = (bits >> bit & 1) * 2.0 - 1
        for matrix in (signs, signs.T):
            correlations = (matrix @ matrix.T / 512).fill_diagonal_(0)
            assert correlations.abs().max() < 0.27  # 6 deviations of 1/sqrt(512)


def test_bits_are_those_of_the_mixer_in_plain_whole_numbers():
    def mixed(x: int) -> int:
        x = (x ^ x >> 16) * 0x7FEB352D % 2**32
        x = (x ^ x >> 15) * 0x846CA68B % 2**32
        return x ^ x >> 16

    for row, (one, other) in enumerate(KEYS.tolist()):
        first = mixed(one ^ 5 * 0x9E3779B9 % 2**32)
        second = mixed(first ^ other)
        expected = [mixed((mixed(column ^ first) + second) % 2**32) for column in range(3)]
        assert random_bits(KEYS, 4, 3)[row].tolist() == expected


def test_as_many_patches_of_every_image_stay_and_the_first_token_always():
    network = Dropping("patches")
    tokens = torch.arange(17.0).view(1, 17, 1).expand(2, 17, 4)
    with drawing(network, batch_of([5, 6])), network.drops.call(2):
        kept = network.layer(tokens)
    assert kept.shape == (2, 9, 4)
    assert kept[:, 0].eq(0).all()
    assert (kept[:, 1:, 0].diff() > 0).all()
    assert not torch.equal(kept[0], kept[1])


@pytest.mark.parametrize("layer", ["paths", "features", "channels", "patches"])
def test_nothing_is_dropped_in_evaluation_or_without_a_batch(layer):
    network, x = Dropping(layer), torch.ones(2, 4, 3)
    with network.drops.call(2):
        assert torch.equal(network.layer(x), x)
    network.eval()
    with drawing(network, batch_of([5, 6])), network.drops.call(2):
        assert torch.equal(network.layer(x), x)


def test_rows_that_are_not_equally_many_of_each_image_are_refused():
    network = Dropping()
    with drawing(network, batch_of([5, 6])), pytest.raises(ValueError, match="3 rows"):
        network(3, 4)


def test_a_copy_of_an_encoder_draws_by_itself():
    network = Dropping()
    other = copy.deepcopy(network)
    assert other.layer.drops_by is other.drops is not network.drops
