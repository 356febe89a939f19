"""Where processes meet: what is wrong with the place is told by what it is."""

import socket
from collections.abc import Iterator
from datetime import timedelta

import pytest

from simclr_dist.distributed import rendezvous
from simclr_dist.distributed.rendezvous import check_interface, meeting_failure, meeting_point
from simclr_dist.errors import UserError


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as holder:
        holder.bind(("0.0.0.0", 0))
        holder.listen()
        yield holder.getsockname()[1]


def refused(monkeypatch: pytest.MonkeyPatch, rank: int, host: str, port: object) -> str:
    """What a process of two is told that meets there for half a second."""
    monkeypatch.setattr(rendezvous, "SHORTEST", timedelta(seconds=0.5))
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
    monkeypatch.setenv("MASTER_ADDR", host)
    monkeypatch.setenv("MASTER_PORT", str(port))
    with pytest.raises(UserError) as error, meeting_point(rank, 2, timedelta(seconds=0.5)):
        pass
    return str(error.value)


def test_a_port_that_another_program_has_taken_is_told_as_that(monkeypatch, taken_port):
    told = refused(monkeypatch, 0, "127.0.0.1", taken_port)
    assert told.startswith(f"MASTER_ADDR, MASTER_PORT: 127.0.0.1:{taken_port}: the port is taken by another program")


def test_a_port_that_the_user_may_not_use_is_told_as_that():
    error = "The server socket has failed to listen. port: 80, code: -13, name: EACCES, message: permission denied"
    assert (
        meeting_failure(error, timedelta(seconds=1)) == "the port may not be used by this user; choose one above 1023"
    )


@pytest.mark.parametrize("port", ["abc", "99999"])
def test_what_is_no_port_is_refused(monkeypatch, port):
    assert refused(monkeypatch, 1, "127.0.0.1", port).endswith(f"127.0.0.1:{port}: a port is a number up to 65535")


def test_a_host_that_nobody_knows_is_told_with_what_the_resolver_says_and_without_c_plus_plus(monkeypatch, capfd):
    def unknown(*_: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "create_connection", unknown)
    told = refused(monkeypatch, 1, "nowhere", 29500)
    assert "did not meet there in 0 s" in told
    assert told.endswith("(Name or service not known)")
    assert capfd.readouterr().err == ""


def test_an_interface_that_this_host_has_not_is_told_with_those_that_it_has(monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo,no0")
    monkeypatch.setattr(socket, "if_nameindex", lambda: [(1, "lo"), (2, "eth7")])
    with pytest.raises(UserError, match=r"^GLOO_SOCKET_IFNAME: .* has no network interface no0 \(it has lo, eth7\)"):
        check_interface()
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo,eth7")
    check_interface()
