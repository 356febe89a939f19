"""Which processes this one can reach, over the network that their groups use.

A link between two nodes may be cut while both see the place where the processes agree: a group of both would never
form.
"""

import errno
import os
import selectors
import socket
import struct
import time
from collections.abc import Mapping
from contextlib import suppress

_SECONDS = 3.0
_WAITING = 256
"""Connections that nobody has taken yet: the kernel makes them without the process."""


class Door:
    """Where the others try whether they reach this process. Nothing is said there: a connection is all."""

    def __init__(self) -> None:
        self._socket = socket.create_server((_own_address(), 0), backlog=_WAITING)
        self._socket.setblocking(False)

    @property
    def address(self) -> str:
        """HOST:PORT."""
        host, port = self._socket.getsockname()[:2]
        return f"{host}:{port}"

    def clear(self) -> None:
        """Drop the connections that have been made."""
        with suppress(OSError):
            while True:
                self._socket.accept()[0].close()

    def close(self) -> None:
        self._socket.close()


def reached(addresses: Mapping[int, str], seconds: float = _SECONDS) -> list[int]:
    """Those of the addresses, by key, at which somebody listens; tried all at once, for ``seconds`` at most."""
    found = []
    deadline = time.monotonic() + seconds
    with selectors.DefaultSelector() as selector:
        for key, address in addresses.items():
            host, _, port = address.rpartition(":")
            trying = socket.socket()
            trying.setblocking(False)
            if trying.connect_ex((host, int(port))) in (0, errno.EINPROGRESS):
                selector.register(trying, selectors.EVENT_WRITE, key)
            else:
                trying.close()
        while selector.get_map() and (left := deadline - time.monotonic()) > 0:
            for ready, _ in selector.select(left):
                assert isinstance(ready.fileobj, socket.socket)
                if not ready.fileobj.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                    found.append(ready.data)
                selector.unregister(ready.fileobj)
                ready.fileobj.close()
        for left_over in list(selector.get_map().values()):
            assert isinstance(left_over.fileobj, socket.socket)
            left_over.fileobj.close()
    return sorted(found)


def _own_address() -> str:
    """As gloo chooses it: the interface's that GLOO_SOCKET_IFNAME names, else that of the host's name."""
    interface = os.environ.get("GLOO_SOCKET_IFNAME", "").partition(",")[0]
    if interface:
        with suppress(OSError, ImportError):
            import fcntl

            get_interface_address = 0x8915
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
                name = struct.pack("256s", interface.encode()[:15])
                return socket.inet_ntoa(fcntl.ioctl(asking, get_interface_address, name)[20:24])
    with suppress(OSError):
        return socket.gethostbyname(socket.gethostname())
    return "127.0.0.1"
