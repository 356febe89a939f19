"""The machine's keys for shards, of this process and those forked from it: a source is opened by its recipe alone."""

import os
import tempfile
from pathlib import Path

from simclr_dist.config.shards import Shards

_settings = Shards()


def use_shard_settings(shards: Shards) -> None:
    """Take ``machine.shards`` for every source that is opened from now on."""
    global _settings
    _settings = shards


def shard_settings() -> Shards:
    """What was given last, else the defaults."""
    return _settings


def cache_folder(shards: Shards) -> Path:
    """Where fetched shards stand."""
    if shards.cache_folder:
        return Path(shards.cache_folder).expanduser()
    return Path(tempfile.gettempdir()) / f"simclr_dist_shards_{os.getuid()}"
