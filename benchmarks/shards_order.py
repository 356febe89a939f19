"""Shards on a server: ten million samples read by processes that are killed and change their number.

    export PYTHONPATH=.
    python benchmarks/shards_order.py FOLDER [--samples 10000000] [--shards 1000] [--every 5]

writes tars of tiny members into FOLDER/tars (1 kB a sample), indexes them, and reads an epoch of them through a server
on this machine by 4, then 2, 3 and 4 processes, all killed with SIGKILL at a quarter, half, three quarters. It checks
that each sample came once, with its own bytes, in the order of one process, and tells memory and cache.
"""

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from simclr_dist.config.recipe import Data, Recipe
from simclr_dist.config.shards import Shards
from simclr_dist.data.loading.order import ShardOrder, build_order
from simclr_dist.data.sources.named import open_source
from simclr_dist.data.sources.shards.fetched import FetchedShards
from simclr_dist.data.sources.shards.source import ShardSource
from tests.support.shards import serving

BATCH, WINDOW = 12_000, 16  # 4, 2 and 3 divide the batch
SEED = 11
CACHE_GIGABYTES = 0.5
MEMBER = 1024


def write_tiny_shards(folder: Path, samples: int, shards: int) -> None:
    """Tars whose members hold their sample's number, unequal counts; header by header with tarfile took hours."""
    counts = np.random.default_rng(0).integers(samples // shards // 2, samples // shards * 3 // 2, shards)
    counts += (samples - counts.sum()) // shards  # some hundreds more or less each; at most one a shard are missing
    folder.mkdir(parents=True)
    first = 0
    for shard, count in enumerate(counts.tolist()):
        rows = np.zeros((count, MEMBER), dtype=np.uint8)
        numbers = np.arange(first, first + count)
        digits = (numbers[:, None] // 10 ** np.arange(7, -1, -1) % 10 + ord("0")).astype(np.uint8)
        rows[:, :8], rows[:, 8:12] = digits, np.frombuffer(b".png", dtype=np.uint8)
        rows[:, 100:107] = np.frombuffer(b"0000644", dtype=np.uint8)
        rows[:, 124:135] = np.frombuffer(b"%011o" % 8, dtype=np.uint8)
        rows[:, 156], rows[:, 257:263] = ord("0"), np.frombuffer(b"ustar\0", dtype=np.uint8)
        rows[:, 263:265] = ord("0")
        rows[:, 148:156] = ord(" ")
        sums = rows[:, :512].sum(axis=1, dtype=np.int64)
        rows[:, 148:154] = (sums[:, None] // 8 ** np.arange(5, -1, -1) % 8 + ord("0")).astype(np.uint8)
        rows[:, 154] = 0
        rows[:, 512:520] = digits
        with (folder / f"s-{shard:05}.tar").open("wb") as file:
            file.write(rows.data)
            file.write(bytes(1024))
        first += count


def opened(index: Path, cache: Path, gigabytes: float, location: str = "") -> ShardSource:
    shards = Shards(location=location, cache_folder=str(cache), cache_gigabytes=gigabytes, wait_seconds=60)
    source = open_source(Data(source="webdataset", path=str(index)), shards)
    assert isinstance(source, ShardSource)
    return source


def order_of(source: ShardSource) -> ShardOrder:
    order = build_order(
        Recipe(seed=SEED, global_batch_images=BATCH, data=Data(source="webdataset", window_shards=WINDOW)), source
    )
    assert isinstance(order, ShardOrder)
    return order


def walk(folder: Path, location: str, every: int, rank: int, processes: int, first: int) -> None:
    """One process: its share of each step written down at its place in the epoch, of ``every`` samples one read."""
    source = opened(folder / "index", folder / "cache", CACHE_GIGABYTES, location)
    order = order_of(source)
    read = np.memmap(folder / "read.i8", dtype=np.int64, mode="r+")
    share = BATCH // processes
    with (folder / f"memory_{processes}_{rank}.jsonl").open("a") as memory:
        for step in range(first, order.steps_per_epoch):
            source.will_read(order.shards_from(step), order.window(step))
            own = read[step * BATCH + rank * share :][:share]
            samples = order.samples(step, rank, processes)
            numbers = samples.copy()
            for row in np.flatnonzero(samples % every == 0).tolist():
                numbers[row] = int(source.content(int(samples[row])))
            assert (numbers == np.where(own == -1, numbers, own)).all(), "read again after a kill it is another one"
            own[:] = numbers
            (folder / f"done_{rank}").write_text(str(step + 1))
            if step % 10 == 9:
                memory.write(json.dumps([step, *memory_here()]) + "\n")
                memory.flush()


def memory_here() -> list[int]:
    """Bytes of this process: its own (anonymous), and all that is mapped."""
    text = Path("/proc/self/smaps_rollup").read_text()
    found = {line.split()[0].rstrip(":"): int(line.split()[1]) * 1024 for line in text.splitlines()[1:]}
    return [found["Anonymous"], found["Rss"]]


def measure_order(folder: Path, samples: int, shards: int, every: int) -> None:
    tars, began = folder / "tars", time.monotonic()
    if not tars.exists():
        write_tiny_shards(tars, samples, shards)
    print(f"{shards:,} tars, written in {time.monotonic() - began:.0f} s", flush=True)
    if not (folder / "index" / "index.json").exists():
        began, before = time.monotonic(), os.times().children_user
        command = ["-m", "simclr_dist", "data", "index", str(tars), str(folder / "index"), "--workers", "2"]
        subprocess.run([sys.executable, *command], check=True)
        size = sum(path.stat().st_size for path in (folder / "index").rglob("*.*"))
        used = os.times().children_user - before
        print(f"indexed in {time.monotonic() - began:.0f} s, {used:.0f} s of CPU; {size / 1e6:.0f} MB", flush=True)
    with serving(tars) as server:
        source = opened(folder / "index", folder / "cache", CACHE_GIGABYTES, server.url)
        order = order_of(source)
        np.full(order.steps_per_epoch * BATCH, -1, dtype=np.int64).tofile(folder / "read.i8")
        quarter, most, began = order.steps_per_epoch // 4, 0, time.monotonic()
        assert isinstance(source.shards, FetchedShards)
        cache = source.shards.cache
        first, context = 0, multiprocessing.get_context("fork")
        for processes, until in ((4, quarter), (2, 2 * quarter), (3, 3 * quarter), (4, order.steps_per_epoch)):
            for path in folder.glob("done_*"):
                path.unlink()
            walkers = [
                context.Process(target=walk, args=(folder, server.url, every, rank, processes, first))
                for rank in range(processes)
            ]
            for walker in walkers:
                walker.start()
            while (done := done_by_all(folder, processes)) < until:
                most = max(most, cache.used_bytes())
                assert all(walker.exitcode in (None, 0) for walker in walkers)
                time.sleep(0.05)
            for walker in walkers:
                if until < order.steps_per_epoch:
                    walker.kill()
                walker.join()
            how = "killed" if until < order.steps_per_epoch else "ended"
            print(
                f"{processes} processes from step {first} to {done}, {how}, {time.monotonic() - began:.0f} s",
                flush=True,
            )
            first = done_by_all(folder, processes)
    read = np.fromfile(folder / "read.i8", dtype=np.int64)
    once = np.array_equal(np.sort(read), np.unique(read)) and len(read) == order.steps_per_epoch * BATCH
    expected = np.concatenate([order.samples(step) for step in range(order.steps_per_epoch)])
    is_same = np.array_equal(read, expected)
    print(f"{len(source):,} samples; {len(read):,} in an epoch, each once: {once}; order of one process: {is_same}")
    print(f"cache at most {most / 1e6:.1f} MB of {CACHE_GIGABYTES * 1e3:.0f}; {sum(server.requests.values())} requests")
    for path in sorted(folder.glob("memory_*")):
        rows = np.array(
            [json.loads(line) for line in path.read_text().splitlines() if line.endswith("]")] or [[0, 0, 0]]
        )
        own, mapped = rows[:, 1] / 1e6, rows[:, 2] / 1e6
        most, last = own.max(), own[-1]
        print(f"{path.stem}: own MB {own[0]:.0f} first, {most:.0f} most, {last:.0f} last; RSS {mapped.max():.0f}")


def done_by_all(folder: Path, processes: int) -> int:
    """Steps that all have read."""
    found = [folder / f"done_{rank}" for rank in range(processes)]
    return min(int(path.read_text() or 0) if path.exists() else 0 for path in found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--samples", type=int, default=10_000_000)
    parser.add_argument("--shards", type=int, default=1000)
    parser.add_argument("--every", type=int, default=1, help="Of so many samples one is read; all are written down.")
    given = parser.parse_args()
    measure_order(given.folder, given.samples, given.shards, given.every)


if __name__ == "__main__":
    main()
