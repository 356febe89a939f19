"""What a step on one GPU waits for: its operations, its memory, the links or the loader."""

from simclr_dist.planning.communication import Assumptions
from simclr_dist.planning.plan import Row

_MOST = 0.5  # of the computation, from which its time is rather batch norm's than the operations'


def bottleneck(row: Row, assumed: Assumptions) -> str:
    """One line; only what is known can be named."""
    if row.compute_seconds is None:
        return "not known without the rate of a GPU: give --card or --rate"
    parts = {"computation": row.compute_seconds, "communication": row.communication_seconds}
    if row.loader_seconds is not None:
        parts[f"the loader: more than {assumed.cores} cores a GPU"] = row.loader_seconds
    name = max(parts, key=lambda part: parts[part])
    share = norm_seconds(row, assumed)
    if name == "computation" and share and share > _MOST * row.compute_seconds:
        return "the memory of the GPU, by batch norm"
    return name


def norm_seconds(row: Row, assumed: Assumptions) -> float | None:
    """Of batch norm in a step, at the full bandwidth of the memory."""
    return row.norm_bytes / assumed.memory_bandwidth if assumed.memory_bandwidth else None


def loader_demand(row: Row, assumed: Assumptions) -> list[str]:
    """The images a second, and cores, that keep a GPU busy, in a line; nothing where no time is known."""
    if row.compute_seconds is None:
        return []
    rate = row.images / (row.compute_seconds + row.communication_seconds)
    if not assumed.core_images_per_second:
        return [f"loader: {rate:,.0f} images/s keep a GPU busy; data bench says what a core makes (--core-rate)"]
    needed = rate / assumed.core_images_per_second
    given = f"; {assumed.cores} are given" if assumed.cores else ""
    return [f"loader: {rate:,.0f} images/s, from {needed:.1f} cores, keep a GPU busy{given}"]
