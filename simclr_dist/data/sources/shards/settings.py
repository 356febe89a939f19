"""The machine's keys for shards: those of a run that is looked at, and what they mean here."""

import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from simclr_dist.config.shards import Shards
from simclr_dist.storage.paths import expanded
from simclr_dist.storage.yaml_text import load_yaml


def shards_of_run(run_dir: Path) -> Shards:
    """``machine.shards`` of a run; the defaults where it has none that can be read, as of a file of weights."""
    with suppress(OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
        content: Any = load_yaml((run_dir / "config.yaml").read_text(encoding="utf-8"))
        return Shards(**content["machine"]["shards"])
    return Shards()


def cache_folder(shards: Shards) -> Path:
    """Where fetched shards stand."""
    if shards.cache_folder:
        return expanded("machine.shards.cache_folder", shards.cache_folder)
    return Path(tempfile.gettempdir()) / f"simclr_dist_shards_{os.getuid()}"
