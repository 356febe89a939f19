"""Whether processes keep to the memory, threads and open files that they began with.

Memory is the anonymous resident memory (RssAnon): pages of files belong to the system's cache. The first fifth of the
time is warm-up and left out. What leaks is never given back, so it raises the floor: the least memory seen in each
tenth of the rest. The slope is the median of the slopes between all pairs of these (Theil-Sen); memory is flat when
it grows, at that slope, by less than 3 % and less than 10 MB over the time measured. Threads and open files
come and go with every checkpoint and batch: flat is that the last quarter shows no more of them than the first, in the
median.
"""

import statistics
from pathlib import Path

import numpy as np
from real_runs import Moment, Sizes

WARM_UP_SHARE = 0.2
FLOORS, LOOKS_AT_LEAST = 10, 5
GROWTH_SHARE, GROWTH_MB = 0.03, 10.0


def slope(times: list[float], values: list[float]) -> float:
    """Theil-Sen: a moment that is out of line hardly moves it."""
    t, v = np.array(times), np.array(values)
    first, second = np.triu_indices(len(t), 1)
    return float(np.median((v[second] - v[first]) / (t[second] - t[first])))


def judged(moments: list[Moment]) -> tuple[list[str], bool]:
    """The cells of one process's row, and whether all of it is flat."""
    length = moments[-1].minutes
    measured = [each for each in moments if each.minutes >= WARM_UP_SHARE * length]
    quarter = max(1, len(measured) // 4)
    first, last = measured[:quarter], measured[-quarter:]
    parts = np.array_split(np.array([(each.minutes, each.memory_mb) for each in measured]), FLOORS)
    per_minute = slope([float(part[:, 0].mean()) for part in parts], [float(part[:, 1].min()) for part in parts])
    before, after = (statistics.median(each.memory_mb for each in part) for part in (first, last))
    growth = per_minute * (length - measured[0].minutes)
    flat = growth < min(GROWTH_SHARE * before, GROWTH_MB)
    cells = [f"{before:.1f}", f"{after:.1f}", f"{60 * per_minute:+.2f}"]
    for name in ("threads", "files"):
        early, late = (statistics.median(getattr(each, name) for each in part) for part in (first, last))
        cells.append(f"{early:g}, {late:g} ({max(getattr(each, name) for each in measured)})")
        flat = flat and late <= early
    return [*cells, "flat" if flat else "**not flat**"], flat


def table(moments: dict[str, list[Moment]]) -> tuple[str, bool]:
    """A row for each process, and whether all of them are flat."""
    rows, all_flat = [], True
    for role, each in moments.items():
        cells, flat = judged(each)
        rows.append(f"| {role} | {' | '.join(cells)} |")
        all_flat = all_flat and flat
    head = (
        "| process | memory of the first quarter, MB | of the last | MB an hour "
        "| threads of the first quarter, of the last (at most) | open files, likewise | |"
    )
    return "\n".join([head, "| --- | --- | --- | --- | --- | --- | --- |", *rows]), all_flat


def draw(moments: dict[str, list[Moment]], folder: list[Sizes], path: Path) -> None:
    """Memory, threads, files of each process and the size of the run folder, against minutes.

    Memory is drawn beside its own median: in the whole of it megabytes could not be seen.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(4, 1, figsize=(8, 10), sharex=True, layout="constrained")
    for role, each in moments.items():
        minutes, memory = [m.minutes for m in each], [m.memory_mb for m in each]
        usual = statistics.median(memory[len(memory) // 5 :])
        axes[0].plot(minutes, [value - usual for value in memory], label=f"{role}: {usual:.0f} MB", linewidth=1)
        axes[1].plot(minutes, [m.threads for m in each], linewidth=1)
        axes[2].plot(minutes, [m.files for m in each], linewidth=1)
    axes[0].set(ylabel="RssAnon beside its median, MB")
    axes[1].set(ylabel="threads", ylim=(0, None))
    axes[2].set(ylabel="open files", ylim=(0, None))
    axes[0].legend(fontsize="small", ncols=2)
    for name, label in (("checkpoints_mb", "checkpoints"), ("rest_mb", "metrics, TensorBoard, log")):
        axes[3].plot([each.minutes for each in folder], [getattr(each, name) for each in folder], label=label)
    axes[3].set(ylabel="run folder, MB", xlabel="minutes", ylim=(0, None))
    axes[3].legend(fontsize="small")
    figure.savefig(path, dpi=120)
