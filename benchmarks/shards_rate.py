"""The loader's rate from shards: a disk beside an HTTP server and an S3 server.

    PYTHONPATH=. python benchmarks/shards_rate.py FOLDER [--images 6000] [--seconds 20] [--rounds 3]

The servers (S3 is moto's) each stand behind a line of 1.5 times the bytes that reading from the disk takes; in turns.
"""

import argparse
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
from shards_order import SEED, opened

from simclr_dist.config.recipe import Data, Recipe
from simclr_dist.data.loading.batches import ViewBatches
from simclr_dist.data.loading.order import ShardOrder, build_order
from simclr_dist.data.loading.workers import load_steps
from simclr_dist.data.sources.shards.indexing import index_shards
from tests.support.shards import serving, write_tar


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
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=6000)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=1)
    given = parser.parse_args()
    measure_rates(given.folder, given.images, given.seconds, given.rounds, given.workers)


if __name__ == "__main__":
    main()
