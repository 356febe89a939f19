"""gloo's connections of this process, which it can break off from any thread.

A group closes its connections when nothing refers to it any more: not when it is destroyed or aborted, as an error's
traceback or a model's batch norm may refer to it still (tried with torch 2.14). Until then those who wait for this
process would wait for their timeout.
"""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_noted: set[tuple[int, int]] = set()  # descriptor and inode: the number alone may be given to another file later
_kept_ports: set[int] = set()


@contextmanager
def connections_noted() -> Iterator[None]:
    """What the block connects is of a group. No other thread should connect to anything meanwhile."""
    before = _sockets()
    try:
        yield
    finally:
        _noted.update(_sockets() - before)


def keep_connections_of(port: int) -> None:
    """Those of the store at this port are never broken off: it outlives the groups."""
    _kept_ports.add(port)


def break_off() -> None:
    """Shut the groups' connections down: collectives fail at once, here and where this process is waited for.

    What is noted later, as a group was still being made, is shut down by the next call.
    """
    here = _sockets()
    for descriptor, inode in list(_noted):
        if (descriptor, inode) not in here:
            _noted.discard((descriptor, inode))
            continue
        with suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as connection:
            # Another thread may have closed it meanwhile, and its number be another file's.
            is_same = os.fstat(connection.fileno()).st_ino == inode
            if is_same and not _kept_ports & {connection.getpeername()[1], connection.getsockname()[1]}:
                connection.shutdown(socket.SHUT_RDWR)


def _sockets() -> set[tuple[int, int]]:
    found = set()
    for name in os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else []:
        with suppress(OSError):
            if os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                found.add((int(name), os.fstat(int(name)).st_ino))
    return found
