"""Gives each host of a fleet on one machine a network.

`network` makes networks that can be cut: this thread's is the head's, and others hang on a bridge.
Nothing of it is in the machine's own network, and all of it ends with the context. It needs root.
`Loopback` needs nothing, and cuts nothing: hosts are told apart by addresses and ports.
"""

import contextlib
import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from typing import Protocol

CLONE_NEWNET = 0x40000000
BRIDGE = "bridge0"
_libc = ctypes.CDLL(None, use_errno=True)


class HostNetwork(Protocol):
    """Where hosts are reached; the first one that is added is the head."""

    def add(self, host: str) -> str:
        """Return the address of one more host."""

    def ports(self, host: str) -> Mapping[str, object]:
        """Return the settings of a host's ports that are not to be the default ones."""

    def inside(self, host: str) -> tuple[str, ...]:
        """Return the words by which a command is run on a host."""


class Loopback:
    """Addresses 127.0.0.x on this machine.

    Args:
        ports: for each host, the first of so many that Ray takes; see `free_ports`.
    """

    UNUSED = 7, 8, 9
    """Of the ports from the first on, those that Ray does not take."""

    def __init__(self, ports: list[int]) -> None:
        self._ports = ports
        self._hosts: list[str] = []

    def add(self, host: str) -> str:
        self._hosts.append(host)
        return f"127.0.0.{50 + len(self._hosts)}"

    def ports(self, host: str) -> Mapping[str, object]:
        first = self._ports[self._hosts.index(host)]
        peers, proxy, control = (first + place for place in self.UNUSED)
        return {
            "cluster.port": first,
            "proxy.port": proxy,
            "proxy.peers_port": peers,
            "control.port": control,
        }

    def inside(self, host: str) -> tuple[str, ...]:
        return ()


class Network:
    """A bridge in a network namespace that this thread is in, and a namespace for each host."""

    def __init__(self) -> None:
        self._holders: dict[str, subprocess.Popen[bytes]] = {}
        _ip("link", "set", "lo", "up")
        _ip("link", "add", "name", BRIDGE, "type", "bridge")
        _ip("address", "add", f"{_address(1)}/24", "dev", BRIDGE)
        _ip("link", "set", BRIDGE, "up")
        self._head = ""

    def add(self, host: str) -> str:
        """Return a host's address, in a namespace that ends with its holder; the head has ours."""
        if not self._head:
            self._head = host
            return _address(1)
        holder = subprocess.Popen(["unshare", "--net", "sh", "-c", "echo; exec sleep infinity"],
                                  stdout=subprocess.PIPE)  # fmt: skip
        assert holder.stdout is not None
        holder.stdout.readline()  # it is in its namespace
        self._holders[host] = holder
        address = _address(1 + len(self._holders))
        inside = ("netns", str(holder.pid))
        _ip("link", "add", "name", host, "type", "veth", "peer", "name", "eth0", *inside)
        _ip("link", "set", host, "master", BRIDGE, "up")
        for words in (
            ("link", "set", "lo", "up"),
            ("address", "add", f"{address}/24", "dev", "eth0"),
            ("link", "set", "eth0", "up"),
        ):
            subprocess.run([*self.inside(host), "ip", *words], check=True)
        return address

    def ports(self, host: str) -> Mapping[str, object]:
        return {}

    def inside(self, host: str) -> tuple[str, ...]:
        if host == self._head:
            return ()
        return ("nsenter", f"--net=/proc/{self._holders[host].pid}/ns/net")

    def cut(self, host: str) -> None:
        """Take a host's cable out: nothing of what it sends or is sent arrives."""
        _ip("link", "set", host, "down")

    def mend(self, host: str) -> None:
        _ip("link", "set", host, "up")

    def close(self) -> None:
        """End the namespaces, once the processes in them have ended."""
        for holder in self._holders.values():
            holder.kill()
            holder.communicate()


@contextlib.contextmanager
def network() -> Iterator[Network]:
    """Have this thread, and all that it starts, in a network of its own."""
    former = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc.unshare(CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "no network namespace is made")
        try:
            made = Network()
            try:
                yield made
            finally:
                made.close()
        finally:
            assert _libc.setns(former, CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
    finally:
        os.close(former)


def why_not() -> str:
    """Return why no network can be made here; empty if it can."""
    if os.geteuid() != 0:
        return "needs root, to make network namespaces"
    missing = [name for name in ("ip", "unshare", "nsenter") if shutil.which(name) is None]
    if missing:
        return f"needs {', '.join(missing)}"
    tried = subprocess.run(
        ["unshare", "--net", "ip", "link", "add", "name", BRIDGE, "type", "bridge"],
        capture_output=True,
    )
    said = tried.stderr.decode().strip()
    return "" if tried.returncode == 0 else f"network namespaces cannot be made here: {said}"


def _address(number: int) -> str:
    return f"10.77.0.{number}"


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


__all__ = ["HostNetwork", "Loopback", "Network", "network", "why_not"]
