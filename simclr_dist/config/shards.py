"""How source ``webdataset`` comes to its tar files: the keys below ``machine.shards``."""

from dataclasses import dataclass

from simclr_dist.config.fields import MOST_SECONDS, number

LABELS = ("auto", "cls", "json", "folder", "none")
"""Where an index has labels from: KEY.cls, else KEY.json (auto); one of both; the first folder of a name; nowhere."""


@dataclass(kw_only=True)
class Shards:
    """Of source `webdataset` (docs/data.md)."""

    location: str = ""
    """Folder or URL of the shards, if it is not where they were indexed: copies on the node's disk, a mirror."""
    cache_folder: str = ""
    """Folder on the node's own disk for shards from a server: one copy a node, for all its processes and runs. Empty:
    simclr_dist_shards_UID in $TMPDIR, or in /tmp."""
    cache_gigabytes: float = number(64.0, above=0.0, high=100_000.0)
    """Of 10^9 bytes: what that folder holds at most. Two windows (recipe.data.window_shards) or more, so
    that the next one is fetched while one is read; less than one is refused."""
    wait_seconds: int = number(300, low=1, high=MOST_SECONDS)
    """So long a server is waited for that does not answer, or says that it cannot now; then the run saves and ends."""
