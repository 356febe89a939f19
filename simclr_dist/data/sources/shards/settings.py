"""The machine's keys for shards, of this process and those forked from it: a source is opened by its recipe alone."""

import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from simclr_dist.config.shards import Shards
from simclr_dist.storage.yaml_text import load_yaml

_settings = Shards()


def use_shard_settings(shards: Shards) -> None:
    """Take ``machine.shards`` for every source that is opened from now on."""
    global _settings
    _settings = shards


def shard_settings() -> Shards:
    """What was given last, else the defaults."""
    return _settings


def use_shard_settings_of(run_dir: Path) -> None:
    """Take those of a run that is looked at; where it has none that can be read, what counts now stays."""
    with suppress(OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
        content: Any = load_yaml((run_dir / "config.yaml").read_text(encoding="utf-8"))
        use_shard_settings(Shards(**content["machine"]["shards"]))


def cache_folder(shards: Shards) -> Path:
    """Where fetched shards stand."""
    if shards.cache_folder:
        return Path(shards.cache_folder).expanduser()
    return Path(tempfile.gettempdir()) / f"simclr_dist_shards_{os.getuid()}"
