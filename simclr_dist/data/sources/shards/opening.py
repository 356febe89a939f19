"""Source ``webdataset``: the index of a split opened, its shards asked for."""

from pathlib import Path

import numpy as np

from simclr_dist.config.shards import Shards
from simclr_dist.data.sources.pixels import PixelRule
from simclr_dist.data.sources.shards.cache import ShardCache
from simclr_dist.data.sources.shards.fetched import FetchedShards
from simclr_dist.data.sources.shards.index import ShardIndex, are_numbers, is_index, read_index
from simclr_dist.data.sources.shards.local import LocalShards, LocalStore
from simclr_dist.data.sources.shards.place import Store, is_remote
from simclr_dist.data.sources.shards.settings import cache_folder
from simclr_dist.data.sources.shards.source import ShardSource
from simclr_dist.data.sources.shards.store import open_store, stamps
from simclr_dist.distributed.collectives import process_rank
from simclr_dist.errors import UserError
from simclr_dist.terminal import printable, typed
from simclr_dist.units import show_bytes

_SPLITS = {"pretrain": ("pretrain", "train"), "train": ("train",), "test": ("test",)}


def open_shards(path: Path, split: str, rule: PixelRule, shards: Shards) -> ShardSource:
    """The index of a split: ``path`` itself for pretraining, or SPLIT in the folder ``path`` or beside it.

    The first process asks for the shards' sizes and stamps.

    Raises:
        UserError: there is no such index, a shard is missing or was changed, a server does not answer, or the cache
            cannot be written.
    """
    folder = _folder_of(path, split)
    index = read_index(folder)
    other = {"train": "test", "test": "train"}.get(folder.name)
    # What a run trains on is the same whether or not there are test images beside it.
    if split != "pretrain" and other and is_index(folder.with_name(other)):
        _number_over_both(index, read_index(folder.with_name(other)))
    store = open_store(shards.location or index.root, shards.wait_seconds)
    if process_rank() == 0:
        _compare(index, store)
    if isinstance(store, LocalStore):
        return ShardSource(index, LocalShards(index, store), rule)
    limit, cache = int(shards.cache_gigabytes * 1e9), cache_folder(shards)
    source = ShardSource(index, FetchedShards(index, store, ShardCache(cache, limit)), rule)
    source.remarks.append(f"read through {printable(str(cache))}, at most {show_bytes(limit)}")
    return source


def _folder_of(path: Path, split: str) -> Path:
    if split == "pretrain" and is_index(path):
        return path
    above = path.parent if is_index(path) and path.name in ("pretrain", "train", "test") else path
    for name in _SPLITS[split]:
        if is_index(above / name):
            return above / name
    if not path.is_dir():
        raise UserError(
            f"recipe.data.path: {printable(str(path))} is no folder with an index of shards; make one with: "
            f"{typed('data', 'index', 'SHARDS', path)}"
        )
    name = _SPLITS[split][-1]
    if split == "pretrain":
        raise UserError(
            f"recipe.data.path: {printable(str(path))} has no index of shards; make it with: "
            f"{typed('data', 'index', 'SHARDS', path)}"
        )
    raise UserError(
        f"recipe.data.path: {printable(str(path))} has no index of the split '{split}'; evaluation reads PATH/train "
        f"and PATH/test: index the shards of each with: {typed('data', 'index', 'SHARDS', above / name)}"
    )


def _number_over_both(index: ShardIndex, other: ShardIndex) -> None:
    """Classes by name are numbered over both splits: one that a split lacks must not shift the others."""
    if index.labels is None or other.labels is None or index.classes == other.classes:
        return
    if are_numbers(index.classes) and are_numbers(other.classes):
        index.classes = max(index.classes, other.classes, key=len)
        return
    names = sorted({*index.classes, *other.classes})
    index.labels = np.array([names.index(name) for name in index.classes], dtype=np.int64)[index.labels]
    index.classes = names


def _compare(index: ShardIndex, store: Store) -> None:
    """Refuse shards of another size than they were indexed with, and of another stamp where they were indexed."""
    is_same_place = store.root.rstrip("/") == index.root.rstrip("/")
    again = index.command()
    for shard, now in zip(index.shards, stamps(store, [shard.name for shard in index.shards]), strict=True):
        where = printable(f"{store.root}/{shard.name}")
        if now.size != shard.size:
            raise UserError(
                f"{where}: has {now.size} bytes, and had {shard.size} when it was indexed; bring it back, or index the "
                f"shards as they are, another set of images: {again}"
            )
        if is_same_place and shard.mark and now.mark != shard.mark:
            raise UserError(
                f"{where}: was written since it was indexed (another {'ETag' if is_remote(store.root) else 'time'}); "
                f"read it again with: {again} (with the same images in it a run resumes)"
            )
