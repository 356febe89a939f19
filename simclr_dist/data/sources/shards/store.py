"""Where shards are: a folder, or a place on a server that fsspec reads (http, s3, gs ...)."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from simclr_dist.data.sources.shards.local import LocalStore
from simclr_dist.data.sources.shards.place import Stamp, Store, is_remote

if TYPE_CHECKING:
    from simclr_dist.data.sources.shards.remote import RemoteStore

_ASKED_AT_ONCE = 16


def open_store(root: str, wait_seconds: float) -> "LocalStore | RemoteStore":
    """The place of some shards.

    Raises:
        UserError: it is a URL, and what reads it is not installed.
    """
    if is_remote(root):
        from simclr_dist.data.sources.shards.remote import RemoteStore

        return RemoteStore(root, wait_seconds)
    return LocalStore(root.removeprefix("file://"))


def stamps(store: Store, names: Iterable[str]) -> Iterator[Stamp]:
    """Those of many files in their order, several asked at once."""
    with ThreadPoolExecutor(_ASKED_AT_ONCE if is_remote(store.root) else 1) as pool:
        try:
            yield from pool.map(store.stamp, names)
        finally:
            pool.shutdown(cancel_futures=True)
