"""Tar files of small pictures, and a server of files on this machine that can be slow, stall, refuse and break off."""

import io
import tarfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
from PIL import Image

from simclr_dist.data.sources.shards.index import ShardIndex
from simclr_dist.data.sources.shards.indexing import index_shards


def picture(number: int, side: int = 12) -> bytes:
    """A PNG of random pixels, another one for each number."""
    pixels = np.random.default_rng(number).integers(0, 256, (side, side, 3), dtype=np.uint8)
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "png", compress_level=0)
    return content.getvalue()


def write_tar(path: Path, members: dict[str, bytes], form: int = tarfile.PAX_FORMAT) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form) as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def write_shards(folder: Path, counts: list[int], classes: int = 3) -> list[Path]:
    """Shards of so many pictures each, numbered through, with KEY.cls beside KEY.png."""
    first, paths = 0, []
    for shard, count in enumerate(counts):
        members = {}
        for number in range(first, first + count):
            members[f"{number:06}.png"] = picture(number)
            members[f"{number:06}.cls"] = str(number % classes).encode()
        paths.append(folder / f"s-{shard:03}.tar")
        write_tar(paths[-1], members)
        first += count
    return paths


def indexed(place: str | Path, out: Path, labels: str = "auto", wait_seconds: float = 5) -> ShardIndex:
    return index_shards([str(place)], out, labels, workers=0, wait_seconds=wait_seconds)


@dataclass
class Server:
    """Files of a folder over HTTP."""

    folder: Path
    ranges: bool = True
    bytes_per_second: float = 0.0
    """Of all connections together; 0: as fast as it goes."""
    failures: list[str] = field(default_factory=list)
    """What happens to the next requests for a file: 503, 404, cut (breaks off in the middle), stall."""
    is_down: bool = False
    requests: Counter[str] = field(default_factory=Counter)
    """Of contents, by name."""
    sent: int = 0
    url: str = ""

    def __post_init__(self) -> None:
        self.lock, self.next_at = threading.Lock(), 0.0

    def paced(self, count: int) -> None:
        """Wait until so many bytes may go."""
        with self.lock:
            self.sent += count
            if self.bytes_per_second:
                self.next_at = max(self.next_at, time.monotonic()) + count / self.bytes_per_second
                until = self.next_at
            else:
                return
        time.sleep(max(0.0, until - time.monotonic()))


@contextmanager
def serving(folder: Path, **settings: object) -> Iterator[Server]:
    server = Server(folder, **settings)  # type: ignore[arg-type]

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def _answer(self, *, with_body: bool) -> None:
            failure = server.failures.pop(0) if with_body and server.failures else ""
            path = folder / self.path.lstrip("/")
            if server.is_down or failure == "503":
                return self._refuse(503)
            if failure == "404" or not path.is_file():
                return self._listing(path) if path.is_dir() else self._refuse(404)
            content = path.read_bytes()
            asked = self.headers.get("Range") if server.ranges else None
            start, end = 0, len(content)
            if asked:
                first, _, last = asked.removeprefix("bytes=").partition("-")
                start, end = int(first), min(len(content), int(last) + 1)
            self.send_response(206 if asked else 200)
            self.send_header("Content-Length", str(end - start))
            self.send_header("ETag", f'"{len(content)}-{path.stat().st_mtime_ns}"')
            self.end_headers()
            if not with_body:
                return None
            with server.lock:
                server.requests[path.name] += 1
            if failure == "cut":
                self.wfile.write(content[start : (start + end) // 2])
                self.close_connection = True
                return None
            if failure == "stall":
                time.sleep(1.0)
                self.close_connection = True
                return None
            for at in range(start, end, 1 << 16):
                part = content[at : min(at + (1 << 16), end)]
                server.paced(len(part))
                self.wfile.write(part)
            return None

        def _listing(self, path: Path) -> None:
            body = "".join(f'<a href="{each.name}">{each.name}</a>' for each in sorted(path.iterdir())).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def _refuse(self, code: int) -> None:
            self.send_response(code)
            self.send_header("Content-Length", "0")
            self.end_headers()

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

        def handle_error(self, *_: object) -> None:
            pass  # clients that go

    http = Quiet(("127.0.0.1", 0), Handler)
    server.url = f"http://127.0.0.1:{http.server_port}"
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
