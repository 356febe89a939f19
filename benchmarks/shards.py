"""Shards on a server: ten million samples read by processes that are killed and change their number; rates.

    export PYTHONPATH=.
    python benchmarks/shards.py order FOLDER [--samples 10000000] [--shards 1000] [--every 5]
    python benchmarks/shards.py rate FOLDER [--images 6000] [--seconds 20] [--rounds 3]

``order`` writes tars of tiny members into FOLDER/tars (1 kB a sample), indexes them, and reads an epoch of them through
a server on this machine by 4, then 2, 3 and 4 processes, all killed with SIGKILL at a quarter, half, three quarters.
It checks that each sample came once, with its own bytes, in the order of one process, and tells memory and cache.

``rate`` sets the loader's rate from a disk beside that from an HTTP server and an S3 server (moto), each behind a line
of 1.5 times the bytes that reading from the disk takes, in turns.
"""

import argparse
import json
import multiprocessing
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from simclr_dist.config.recipe import Data, Recipe
from simclr_dist.config.shards import Shards
from simclr_dist.data.loading.batches import ViewBatches
from simclr_dist.data.loading.order import ShardOrder, build_order
from simclr_dist.data.loading.workers import load_steps
from simclr_dist.data.sources.named import open_source
from simclr_dist.data.sources.shards.indexing import index_shards
from simclr_dist.data.sources.shards.source import ShardSource
from tests.support.shards import serving, write_tar

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


@contextmanager
def throttled(url: str, bytes_per_second: float) -> Iterator[str]:
    """A line to a server that carries so many bytes a second, all connections together."""
    host, _, port = url.removeprefix("http://").partition(":")
    listening = socket.create_server(("127.0.0.1", 0), backlog=128)
    lock, free_at = threading.Lock(), [0.0]

    def carry(source: socket.socket, sink: socket.socket, is_slow: bool) -> None:
        try:
            while part := source.recv(1 << 16):
                if is_slow:
                    with lock:
                        free_at[0] = max(free_at[0], time.monotonic()) + len(part) / bytes_per_second
                        until = free_at[0]
                    time.sleep(max(0.0, until - time.monotonic()))
                sink.sendall(part)
        except OSError:  # one of both has gone
            return
        finally:
            for end in (source, sink):
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def accept() -> None:
        while True:
            try:
                client, _ = listening.accept()
            except OSError:
                return
            server = socket.create_connection((host, int(port)))
            threading.Thread(target=carry, args=(client, server, False), daemon=True).start()
            threading.Thread(target=carry, args=(server, client, True), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        listening.close()


@contextmanager
def s3_server() -> Iterator[str]:
    """The URL of moto's S3 server, in a process of its own: it takes more time of a core than it serves."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                if server.poll() is not None:
                    raise SystemExit("moto's server did not start: pip install 'moto[s3,server]'") from None
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


def photograph(number: int) -> bytes:
    """A JPEG of 256 x 256 pixels with something in it: about 20 kB."""
    import io

    from PIL import Image

    generator = np.random.default_rng(number)
    small = generator.integers(0, 256, (24, 24, 3), dtype=np.uint8)
    image = np.asarray(Image.fromarray(small).resize((256, 256), Image.Resampling.BICUBIC), dtype=np.int16)
    noisy = np.clip(image + generator.integers(-12, 13, image.shape), 0, 255).astype(np.uint8)
    content = io.BytesIO()
    Image.fromarray(noisy).save(content, "jpeg", quality=85)
    return content.getvalue()


def rate(index: Path, cache: Path, gigabytes: float, workers: int, seconds: float) -> tuple[float, float, float]:
    """Images/s of the loader from the second window on and from its start, and seconds to its first batch."""
    source = opened(index, cache, gigabytes)
    recipe = Recipe(
        seed=SEED,
        global_batch_images=64,
        data=Data(source="webdataset", path=str(index), image_size=224, window_shards=4),
    )
    order = build_order(recipe, source)
    assert isinstance(order, ShardOrder)
    batches = ViewBatches(source, recipe, order)
    batches.prepare()
    began, first, steady = time.monotonic(), 0.0, None
    made = images = 0
    loaded = load_steps(batches, range(10**6), workers=workers, pin_memory=False)
    for step, _ in enumerate(loaded):
        now = time.monotonic()
        first = first or now - began
        made += 64
        if steady is not None:
            images += 64
        elif order.window(step) != order.window(0):
            steady = now
        if steady is not None and now - steady > seconds:
            break
    loaded.close()
    assert steady is not None
    return images / (now - steady), made / (now - began), first


def measure_rates(folder: Path, images: int, seconds: float, rounds: int, workers: int) -> None:
    import shutil

    import s3fs

    tars, per_shard = folder / "photographs", 50
    if not tars.exists():
        for shard in range(images // per_shard):
            numbers = range(shard * per_shard, (shard + 1) * per_shard)
            write_tar(tars / f"p-{shard:03}.tar", {f"{number:06}.jpg": photograph(number) for number in numbers})
    size = sum(path.stat().st_size for path in tars.iterdir())
    gigabytes = 9 * max(path.stat().st_size for path in tars.iterdir()) / 1e9  # two windows of 4 and one shard
    index_shards([str(tars)], folder / "local", "auto", workers=0, wait_seconds=30)
    rate(folder / "local", folder / "none", gigabytes, workers, 2.0)  # compiled, and the disk's cache filled
    local, _, _ = rate(folder / "local", folder / "none", gigabytes, workers, seconds)
    line = 1.5 * local * size / images
    each = size / images / 1e3
    print(f"{images} JPEGs of {each:.1f} kB in {images // per_shard} tars; lines of {line / 1e6:.1f} MB/s")
    os.environ.update(AWS_ACCESS_KEY_ID="x", AWS_SECRET_ACCESS_KEY="x")
    with (
        serving(tars) as server,
        throttled(server.url, line) as http,
        s3_server() as plain,
        throttled(plain, line) as slow_s3,
    ):
        files = s3fs.S3FileSystem(endpoint_url=plain, skip_instance_cache=True)
        files.mkdir("set")
        files.put(str(tars), "set/tars", recursive=True)
        os.environ["AWS_ENDPOINT_URL_S3"] = slow_s3
        names = f"{{000..{images // per_shard - 1:03}}}"
        index_shards([f"{http}/p-{names}.tar"], folder / "http", "auto", workers=0, wait_seconds=30)
        index_shards(["s3://set/tars"], folder / "s3", "auto", workers=0, wait_seconds=30)
        for number in range(rounds):
            found = {}
            for place in ("local", "http", "s3"):
                shutil.rmtree(folder / "cache", ignore_errors=True)
                found[place] = rate(folder / place, folder / "cache", gigabytes, workers, seconds)
            base = found["local"][0]
            for place, (steady, whole, first) in found.items():
                print(
                    f"round {number + 1}, {place}: {steady:.0f} images/s ({steady / base:.2f}), {whole:.0f} with the "
                    f"start, first batch {first:.1f} s",
                    flush=True,
                )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(dest="what", required=True)
    order = kinds.add_parser("order")
    order.add_argument("folder", type=Path)
    order.add_argument("--samples", type=int, default=10_000_000)
    order.add_argument("--shards", type=int, default=1000)
    order.add_argument("--every", type=int, default=1, help="Of so many samples one is read; all are written down.")
    rates = kinds.add_parser("rate")
    rates.add_argument("folder", type=Path)
    rates.add_argument("--images", type=int, default=6000)
    rates.add_argument("--seconds", type=float, default=20.0)
    rates.add_argument("--rounds", type=int, default=3)
    rates.add_argument("--workers", type=int, default=1)
    given = parser.parse_args()
    if given.what == "order":
        measure_order(given.folder, given.samples, given.shards, given.every)
    else:
        measure_rates(given.folder, given.images, given.seconds, given.rounds, given.workers)


if __name__ == "__main__":
    main()
