"""Images in the tar files of an index, every one checked against its CRC-32 when it is read."""

import zlib
from collections.abc import Iterator

import torch
from torch import Tensor

from simclr_dist.data.sources.base import BrokenImageError
from simclr_dist.data.sources.decoding import decode
from simclr_dist.data.sources.files import reason_of
from simclr_dist.data.sources.pixels import PixelRule
from simclr_dist.data.sources.shards.fetched import FetchedShards
from simclr_dist.data.sources.shards.index import ShardIndex
from simclr_dist.data.sources.shards.local import LocalShards
from simclr_dist.errors import UserError
from simclr_dist.terminal import printable


class ShardSource:
    """Images in tar files. ``read`` may be called for any sample; with locality it is fast on a server, too."""

    def __init__(self, index: ShardIndex, shards: LocalShards | FetchedShards, rule: PixelRule) -> None:
        """``shards`` are those of the index, as this machine reads them."""
        self.index, self.shards, self.rule = index, shards, rule
        self.path, self.labels, self.classes = index.folder, index.labels, index.classes
        self.shard_starts = index.starts
        left_out = sum(shard.left_out for shard in index.shards)
        self.remarks = [f"in {len(index.shards):,} shards below {printable(shards.store.root)}"]
        self.remarks += [f"left out: {left_out:,} keys without an image"] if left_out else []

    def __len__(self) -> int:
        return len(self.index)

    def name(self, sample: int) -> str:
        """A sample's shard and its name in it."""
        return f"{self.index.shards[self.index.shard_of(sample)].name}/{self.index.member(sample)}"

    def printable_name(self, sample: int) -> str:
        """The same, in one line of text."""
        return printable(self.name(sample))

    def shard_at(self, sample: int) -> str:
        """Where the shard of a sample is."""
        return printable(f"{self.shards.store.root}/{self.index.shards[self.index.shard_of(sample)].name}")

    def substitutes(self, sample: int) -> tuple[int, int]:
        """First sample id and number of those that may take a broken one's place: a shard that is here already."""
        shard = self.index.shard_of(sample)
        return int(self.shard_starts[shard]), self.index.shards[shard].samples

    def check_window(self, shards: int) -> None:
        """Is the cache large enough for an order with windows of so many shards?

        Raises:
            UserError: it cannot hold one.
        """
        self.remarks += self.shards.check_window(shards)

    def will_read(self, shards: Iterator[int], window: object) -> None:
        """Shards in the order in which they are wanted; ``window`` names the one they begin with."""
        self.shards.will_read(shards, window)

    def content(self, sample: int) -> bytes:
        """The bytes of an image as they were indexed.

        Raises:
            UserError: they are others, or cannot be read.
        """
        shard = self.index.shard_of(sample)
        start, size = int(self.index.offsets[sample]), int(self.index.lengths[sample])
        for is_again in (False, True):
            found = self.shards.part(shard, start, size)
            if len(found) == size and zlib.crc32(found) == self.index.crcs[sample]:
                return found
            if is_again or not self.shards.drop_copy(shard):
                break
        raise UserError(
            f"{self.shard_at(sample)}: {printable(self.index.member(sample))} is not what was indexed (its CRC-32 "
            f"differs): damaged or replaced; bring the shard again, or index it as it is: "
            f"{self.index.command()}"
        )

    def read(self, sample: int) -> Tensor:
        """The image as uint8 of shape (3, height, width), a view of (height, width, 3).

        Raises:
            BrokenImageError: it was no image when it was indexed.
            UserError: it was changed later, or cannot be read.
        """
        content = self.content(sample)
        try:
            pixels = decode(content, self.rule)
        except MemoryError as error:
            raise UserError(
                f"{self.printable_name(sample)}: not enough memory to read it; give the job more, or lower "
                "machine.loader_workers"
            ) from error
        except Exception as error:  # Pillow's decoders raise almost anything on damaged input
            reason = f"{type(error).__name__}: {reason_of(error)}"
            raise BrokenImageError(f"{self.printable_name(sample)}: {reason}") from error
        return torch.from_numpy(pixels).permute(2, 0, 1)

    def fingerprint(self) -> str:
        return self.index.fingerprint
