"""Waiting for a server: what may pass is tried again, within a stated time, and said."""

import secrets
import time

from simclr_dist.errors import UserError, first_line
from simclr_dist.log import log
from simclr_dist.terminal import printable

_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 15.0
_SECONDS_BETWEEN_LINES = 30.0
_MAY_PASS = (408, 425, 429)
_NAMED_CODES = {"SlowDown", "ServiceUnavailable", "InternalError", "RequestTimeout"}
_WILL_NOT_PASS = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, ImportError, ValueError)


class Patience:
    """With one file of a server: how long nothing has come from it."""

    _last_line = -_SECONDS_BETWEEN_LINES
    """When this process said that it waits, for whichever file."""

    def __init__(self, what: str, seconds: float) -> None:
        """``what`` is waited for, at most ``seconds`` from its last byte on."""
        self.what, self.seconds = printable(what), seconds
        self.came()

    def came(self) -> None:
        """Something has come."""
        self._since, self._pause = time.monotonic(), _FIRST_PAUSE

    def after(self, error: Exception) -> None:
        """Wait before the next try.

        Raises:
            UserError: no try would help, or the time is over.
        """
        error = _said_by_server(error)
        if not may_pass(error):
            raise UserError(f"{self.what}: {in_words(error)}; {_cure(error)}") from error
        waited = time.monotonic() - self._since
        if waited >= self.seconds:
            raise UserError(
                f"{self.what}: nothing came from the server for {waited:.0f} s (machine.shards.wait_seconds="
                f"{self.seconds:g}), at last: {in_words(error)}; start again when it answers"
            ) from error
        if time.monotonic() - Patience._last_line >= _SECONDS_BETWEEN_LINES:
            Patience._last_line = time.monotonic()
            log.warning(
                "%s: %s; waiting for the server, %.0f s of %g so far", self.what, in_words(error), waited, self.seconds
            )
        pause = min(self._pause, max(0.0, self.seconds - waited))
        # Not of torch's or numpy's generators; so that many processes do not come back at once.
        time.sleep(pause * (0.5 + secrets.randbelow(1000) / 2000))
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)


def may_pass(error: BaseException) -> bool:
    """Whether the same request may be answered later."""
    if (code := _status(error)) is not None:
        return code >= 500 or code in _MAY_PASS
    if isinstance(error, _WILL_NOT_PASS) or "Credentials" in type(error).__name__:
        return False
    return isinstance(error, (OSError, EOFError)) or not isinstance(error, (TypeError, AttributeError, LookupError))


def in_words(error: BaseException) -> str:
    """An error in one line, that of a time-out too, which has no message."""
    if isinstance(error, FileNotFoundError):
        return "is not there (404)"
    code = _status(error)
    said = getattr(error, "message", "") or getattr(error, "strerror", "") or str(error)
    name = "no answer in time" if isinstance(error, TimeoutError) and not said else type(error).__name__
    text = f"{name}: {first_line(Exception(said))}" if said else name
    return printable(f"the server answers {code} ({said})" if code else text)


def _said_by_server(error: Exception) -> Exception:
    # fsspec says of every server that cannot be asked for a file's size that there is no such file.
    while isinstance(error, FileNotFoundError) and isinstance(error.__cause__, Exception):
        error = error.__cause__
    return error


def _status(error: BaseException) -> int | None:
    code = getattr(error, "status", None)  # aiohttp, gcsfs: code
    code = code if code is not None else getattr(error, "code", None)
    response = getattr(error.__cause__ or error, "response", None)  # botocore, below s3fs's OSError
    if isinstance(response, dict):
        code = response.get("ResponseMetadata", {}).get("HTTPStatusCode", code)
        if response.get("Error", {}).get("Code") in _NAMED_CODES:
            return 503
    return code if type(code) is int and 400 <= code < 600 else None


def _cure(error: BaseException) -> str:
    if isinstance(error, PermissionError) or _status(error) in (401, 403) or "Credentials" in type(error).__name__:
        return "give this host the credentials for it"
    return "is it still there? see machine.shards.location, or index again"
