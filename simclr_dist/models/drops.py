"""What an encoder drops by chance while it is trained (paths, features, patches), as a function of the recipe.

A layer of torch's draws from a generator that belongs to a process, so what is dropped would change with the number
of processes, with chunks and after a restart. The layers here are handed two 32-bit words for each of their rows, a
function of (recipe.seed, epoch, sample id, view, call), and make from them and from their own number whatever they need
by a hash of integers, which is the same on every device (docs/design/encoders.md).
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from simclr_dist.data.loading.batch import Batch

_WORD = 2**32
_LOW_32 = _WORD - 1
_GOLDEN = 0x9E3779B9


class Drops:
    """What the layers of one encoder draw by. Without a batch nothing is dropped: in evaluation, and in ``targets``."""

    def __init__(self) -> None:
        self.batch: Batch | None = None
        self.calls = 0
        self.keys: Tensor | None = None
        """int64 (rows, 2) of the call that is being computed, 32 bits each."""

    @contextmanager
    def call(self, rows: int) -> Iterator[None]:
        """Inside, the layers draw for so many rows of the batch: those of an image stand together.

        Raises:
            ValueError: the rows are not equally many of each image.
        """
        if self.batch is None:
            yield
            return
        views, rest = divmod(rows, len(self.batch))
        if rest:
            raise ValueError(f"{rows} rows are not equally many of each of {len(self.batch)} images")
        drawn = self.batch.draws(f"drops of an encoder, call {self.calls}", 2 * views)
        self.calls += 1
        with self.again((drawn * _WORD).long().view(rows, 2)):
            yield

    @contextmanager
    def again(self, keys: Tensor | None) -> Iterator[None]:
        """Inside, the layers draw by these keys: those of the call that is computed again."""
        before, self.keys = self.keys, keys
        try:
            yield
        finally:
            self.keys = before


@contextmanager
def drawing(module: nn.Module, batch: Batch) -> Iterator[None]:
    """Inside, what the encoders within ``module`` drop is drawn for ``batch``, from their first call on."""
    found = drops_of(module)
    for drops in found:
        drops.batch, drops.calls = batch, 0
    try:
        yield
    finally:
        for drops in found:
            drops.batch = None


def drops_of(module: nn.Module) -> list[Drops]:
    """Those of the encoders within a module that drop anything at all."""
    found = [getattr(part, "drops", None) for part in module.modules()]
    return [drops for drops in found if isinstance(drops, Drops)]


def random_bits(keys: Tensor, place: int, count: int) -> Tensor:
    """``count`` numbers of 32 random bits for each row, int64 (rows, count), a function of keys, ``place`` and column.

    Two rounds of Wellons' 32-bit mixer ("lowbias32") for each word of the key. Nothing of cryptography: 1 bit in
    ten thousand would be too much for that, and is nothing for a mask.

    Args:
        keys: int64 (rows, 2), of 32 bits.
        place: the number of the layer.
        count: of numbers.
    """
    first = _mixed(keys[:, :1] ^ ((place + 1) * _GOLDEN & _LOW_32))
    second = _mixed(first ^ keys[:, 1:])
    columns = torch.arange(count, device=keys.device)
    return _mixed((_mixed(columns ^ first) + second) & _LOW_32)


def _mixed(x: Tensor) -> Tensor:
    """A permutation of the 32-bit numbers: int64 in, int64 out. No product is above 2^63, so no device overflows."""
    x = x ^ (x >> 16)
    x = x * 0x7FEB352D & _LOW_32
    x = x ^ (x >> 15)
    x = x * (0x846CA68B - _WORD) & _LOW_32
    return x ^ (x >> 16)


class _Drawn(nn.Module):
    """A layer that drops with the probability ``p``, the ``place``-th of its encoder."""

    def __init__(self, drops: Drops, place: int, p: float) -> None:
        super().__init__()
        self.drops_by, self.place, self.p = drops, place, p

    @property
    def drop_prob(self) -> float:
        """As DropPath calls it."""
        return self.p

    def extra_repr(self) -> str:
        return f"p={self.p:g}, place={self.place}"

    def _keys(self) -> Tensor | None:
        return self.drops_by.keys if self.training else None

    def _scale(self, keys: Tensor, shape: tuple[int, ...], x: Tensor, *, scaled: bool = True) -> Tensor:
        """What ``x`` is multiplied by, of its type: 0 where something is dropped."""
        count, rest = divmod(math.prod(shape), len(keys))
        if rest:
            raise ValueError(f"{len(x)} rows in a layer that drops are not equally many of each of {len(keys)} rows")
        kept = random_bits(keys, self.place, count) >= round(self.p * _WORD)
        return kept.view(shape).to(x.dtype) / (1 - self.p if scaled and self.p < 1 else 1)


class DropPath(_Drawn):
    """A row's whole branch (Huang et al. 2016, arXiv 1603.09382); what is kept is scaled, unless told not to."""

    def __init__(self, drops: Drops, place: int, p: float, scale_by_keep: bool = True) -> None:
        super().__init__(drops, place, p)
        self.scale_by_keep = scale_by_keep

    def forward(self, x: Tensor) -> Tensor:
        if (keys := self._keys()) is None:
            return x
        return x * self._scale(keys, (len(x), *(1,) * (x.dim() - 1)), x, scaled=self.scale_by_keep)


class Dropout(_Drawn):
    """Single numbers, or with ``whole_channels`` the channels of x (rows, channels, ...); what is kept is scaled.

    Where x has several rows for each of the encoder's (windows of a map), those of one stand together.
    """

    def __init__(self, drops: Drops, place: int, p: float, whole_channels: bool = False) -> None:
        super().__init__(drops, place, p)
        self.whole_channels = whole_channels

    def forward(self, x: Tensor) -> Tensor:
        if (keys := self._keys()) is None:
            return x
        return x * self._scale(keys, (*x.shape[:2], *(1,) * (x.dim() - 2)) if self.whole_channels else (*x.shape,), x)


class PatchDropout(_Drawn):
    """Whole tokens of x (rows, tokens, d), as many of every row, never the first ``prefix`` ones (arXiv 2212.00794)."""

    def __init__(self, drops: Drops, place: int, p: float, prefix: int, ordered: bool, gives_indices: bool) -> None:
        super().__init__(drops, place, p)
        self.prefix, self.ordered, self.gives_indices = prefix, ordered, gives_indices

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor | None]:
        if (keys := self._keys()) is None:
            return (x, None) if self.gives_indices else x
        first, tokens = x[:, : self.prefix], x[:, self.prefix :]
        count = tokens.shape[1]
        # No two alike, so that every device sorts them alike.
        order = random_bits(keys, self.place, count) * count + torch.arange(count, device=keys.device)
        indices = order.argsort(dim=1)[:, : max(1, int(count * (1 - self.p)))]
        if self.ordered:
            indices = indices.sort(dim=1)[0]
        kept = tokens.gather(1, indices[:, :, None].expand(-1, -1, x.shape[2]))
        made = torch.cat((first, kept), dim=1) if self.prefix else kept
        return (made, indices) if self.gives_indices else made
