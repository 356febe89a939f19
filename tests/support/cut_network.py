"""Two network namespaces of this machine, as two nodes that share a file system, and a link that can be cut."""

import ctypes
import os
import shutil
import subprocess
from pathlib import Path

_DEVICE = "sdtest"


def missing() -> str:
    """Why there can be none here; empty when there can."""
    if os.getuid() != 0 or shutil.which("ip") is None:
        return "only root can make network namespaces, with iproute2's ip"
    name = f"{_DEVICE}{os.getpid()}x"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False)
    subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
    return made.stderr.decode().strip()


class CutNetwork:
    """The two sides, 0 and 1; what was connected stays so until nothing comes through any more."""

    def __init__(self) -> None:
        self._names = [f"{_DEVICE}{os.getpid()}{side}" for side in (0, 1)]
        for name in self._names:
            _ip("netns", "add", name)
        one, other = self._names
        _ip("-n", one, "link", "add", _DEVICE, "type", "veth", "peer", "name", _DEVICE, "netns", other)
        for side, name in enumerate(self._names):
            _ip("-n", name, "addr", "add", f"{self._address(side)}/24", "dev", _DEVICE)
            for device in (_DEVICE, "lo"):
                _ip("-n", name, "link", "set", device, "up")

    def environment(self, side: int) -> dict[str, str]:
        """Of a process on that node."""
        return {"SLURMD_NODENAME": self._address(side), "GLOO_SOCKET_IFNAME": _DEVICE, "TEST_NODE": self._names[side]}

    def cut(self) -> None:
        """From now on packets are lost, as on a cable that was pulled: nobody is told."""
        for side, name in enumerate(self._names):
            nobody = f"02:00:00:00:00:{90 + side}"
            _ip("-n", name, "neigh", "replace", self._address(1 - side), "lladdr", nobody, "dev", _DEVICE)

    def close(self) -> None:
        for name in self._names:
            _ip("netns", "del", name)

    @staticmethod
    def _address(side: int) -> str:
        return f"10.203.7.{1 + side}"


def enter_node() -> None:
    """Take this process to the node that its environment names, if it names one."""
    if name := os.environ.get("TEST_NODE"):
        with Path(f"/var/run/netns/{name}").open() as file:
            assert ctypes.CDLL(None).setns(file.fileno(), 0) == 0


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)
