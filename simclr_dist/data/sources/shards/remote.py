"""Shards on a server, through fsspec, in a process that may have been forked from one that used it."""

import asyncio
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, TypeVar

from simclr_dist.data.sources.shards.patience import Patience
from simclr_dist.data.sources.shards.place import Stamp
from simclr_dist.errors import UserError, first_line

SILENT_SECONDS = 30.0
"""A connection that says nothing for so long is given up, and another tried."""
_BLOCK_BYTES, _LEAST_BYTES = 4 << 20, 1 << 16
_MARKS = ("ETag", "etag", "md5Hash", "Last-Modified", "LastModified", "mtime", "updated")
Found = TypeVar("Found")


class RemoteStore:
    """Files below a URL."""

    def __init__(self, root: str, wait_seconds: float) -> None:
        """``wait_seconds``: how long a server is waited for.

        Raises:
            UserError: what reads such URLs is not installed.
        """
        self.root, self.wait_seconds = root.rstrip("/"), wait_seconds
        self._opened: tuple[int, Any] | None = None
        self._files()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}

    def url(self, name: str) -> str:
        return f"{self.root}/{name}"

    def find(self) -> list[str]:
        """Names of all files below the root.

        Raises:
            UserError: the server does not answer, or does not list.
        """
        files = self._files()

        def names() -> list[str]:
            files.invalidate_cache()
            found = (str(path) for path in files.find(self.root))
            root = str(files._strip_protocol(self.root)).rstrip("/")
            return sorted(path.removeprefix(root).lstrip("/") for path in found if path.startswith(root))

        return self._patiently(self.root, names)

    def stamp(self, name: str) -> Stamp:
        files, url = self._files(), self.url(name)

        def ask() -> Stamp:
            files.invalidate_cache()
            facts = files.info(url)
            if facts.get("type") == "directory":
                raise FileNotFoundError("it is a folder")
            if not isinstance(size := facts.get("size"), int):
                raise ValueError("the server does not say its size")
            return Stamp(size, str(next((facts[key] for key in _MARKS if facts.get(key)), "")))

        return self._patiently(url, ask)

    def content(self, name: str, size: int) -> Iterator[bytes]:
        at, step, patience = 0, _BLOCK_BYTES, Patience(self.url(name), self.wait_seconds)
        while at < size:
            try:
                for part in self._from(self.url(name), at, size, step):
                    at += len(part)
                    patience.came()
                    yield part
                if at < size:
                    raise EOFError(f"the connection ended after {at} of {size} bytes")
            except UserError:
                raise
            except Exception as error:  # of fsspec's many implementations; GeneratorExit is none
                if isinstance(error, TimeoutError):  # a slow line, perhaps, that does not bring so much in time
                    step = max(_LEAST_BYTES, step // 4)
                patience.after(error)
        if at > size:
            raise UserError(f"{self.url(name)}: has more than {size} bytes: it was replaced; index again")

    def part(self, name: str, start: int, end: int) -> bytes:
        """Some bytes of a file."""
        files, url = self._files(), self.url(name)
        if _is_http(files):  # a server without ranges answers with the whole file
            return self._patiently(url, lambda: b"".join(_of_http(files, url, start, end)))
        return self._patiently(url, lambda: _cat(files, url, start, end))

    def _from(self, url: str, at: int, size: int, step: int) -> Iterator[bytes]:
        files = self._files()
        if _is_http(files):
            yield from _of_http(files, url, at, size)
            return
        while at < size:
            end = min(size, at + step)
            part = _cat(files, url, at, end)
            if len(part) != end - at:
                raise EOFError(f"{len(part)} of {end - at} bytes came")
            at = end
            yield part

    def _patiently(self, what: str, attempt: Callable[[], Found]) -> Found:
        patience = Patience(what, self.wait_seconds)
        while True:
            try:
                return attempt()
            except UserError:
                raise
            except Exception as error:
                patience.after(error)

    def _files(self) -> Any:
        """fsspec's object for the server, made in this process: its loop and connections do not outlive a fork."""
        if self._opened is None or self._opened[0] != os.getpid():
            self._opened = os.getpid(), _filesystem(self.root)
        return self._opened[1]


def _filesystem(root: str) -> Any:
    try:
        import fsspec
    except ImportError as error:
        raise UserError(
            f"{root}: shards on a server need the package fsspec, which is not installed: pip install "
            "'simclr_dist[shards]' (for s3 pip install s3fs too, for gs gcsfs), or copy them to a disk"
        ) from error
    options: dict[str, Any] = {}
    if root.startswith(("http://", "https://")):
        with suppress(ImportError):  # fsspec says below that it is missing
            import aiohttp

            options["client_kwargs"] = {
                "timeout": aiohttp.ClientTimeout(total=None, sock_connect=SILENT_SECONDS, sock_read=SILENT_SECONDS)
            }
    elif root.startswith("s3://"):
        # Its own patience is not ours: each try is one.
        options["config_kwargs"] = {"read_timeout": SILENT_SECONDS, "connect_timeout": SILENT_SECONDS}
    try:
        return fsspec.filesystem(root.partition("://")[0], skip_instance_cache=True, **options)
    except (ImportError, ValueError) as error:
        raise UserError(
            f"{root}: cannot be read here: {first_line(error)}; install what reads it (s3fs for s3, gcsfs for gs, "
            "fsspec and aiohttp for http), or copy the shards to a disk"
        ) from error


def _is_http(files: Any) -> bool:
    protocol = files.protocol
    return "http" in ((protocol,) if isinstance(protocol, str) else protocol)


def _cat(files: Any, url: str, start: int, end: int) -> bytes:
    """Some bytes, within SILENT_SECONDS where the implementation can be told so."""
    if not getattr(files, "async_impl", False):
        return bytes(files.cat_file(url, start=start, end=end))
    from fsspec.asyn import sync

    return bytes(sync(files.loop, files._cat_file, url, start=start, end=end, timeout=SILENT_SECONDS))


def _of_http(files: Any, url: str, start: int, end: int) -> Iterator[bytes]:
    """Bytes of one answer in parts. A server without ranges begins at the first byte; those before are passed over."""
    from fsspec.asyn import sync

    async def ask() -> tuple[Any, int]:
        session = await files.set_session()
        headers = {"Range": f"bytes={start}-{end - 1}", "Accept-Encoding": "identity"}
        answer = await session.get(files.encode_url(url), headers=headers)
        if answer.status == 404:
            answer.close()
            raise FileNotFoundError(f"the server answers 404: {url} is not there")
        try:
            answer.raise_for_status()
        except Exception:
            answer.close()
            raise
        return answer, 0 if answer.status == 206 else start

    async def take(answer: Any, count: int) -> bytes:
        parts, left = [], count
        while left and (part := await answer.content.read(min(left, 1 << 20))):
            parts.append(part)
            left -= len(part)
        return b"".join(parts)

    async def close(answer: Any) -> None:
        answer.close()
        await asyncio.sleep(0)

    answer, passed_over = sync(files.loop, ask)
    try:
        while passed_over and (part := sync(files.loop, take, answer, min(passed_over, _BLOCK_BYTES))):
            passed_over -= len(part)
        left = end - start
        # Small parts: what a connection has brought before it breaks off need not come again.
        while left and (part := sync(files.loop, take, answer, min(left, 1 << 18))):
            left -= len(part)
            yield part
    finally:
        sync(files.loop, close, answer)
