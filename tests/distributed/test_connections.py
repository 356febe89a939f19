"""Connections of a group that are broken off."""

import os
import socket
from collections.abc import Iterator

import pytest

from simclr_dist.distributed import connections
from simclr_dist.distributed.connections import break_off, connections_noted


@pytest.fixture(autouse=True)
def _nothing_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "_noted", set())


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def is_shut(connection: socket.socket) -> bool:
    """Whether reading it ends at once; it has no data."""
    connection.setblocking(False)
    try:
        return connection.recv(1) == b""
    except BlockingIOError:
        return False


def test_a_group_that_was_being_made_when_it_was_broken_off_is_shut_down_the_next_time(listening):
    with connections_noted():
        connection = socket.create_connection(listening.getsockname())
        break_off()
    assert not is_shut(connection)
    break_off()
    assert is_shut(connection)
    connection.close()


def test_what_is_no_groups_stays_open_though_it_has_the_number_of_a_closed_connection(listening):
    with connections_noted():
        connection = socket.create_connection(listening.getsockname())
    other = socket.create_connection(listening.getsockname())
    os.dup2(other.fileno(), connection.fileno())
    break_off()
    assert not is_shut(other)
    connection.close()
    other.close()
