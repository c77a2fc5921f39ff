"""Makes hosts with networks of their own: this thread's is the head's, and others hang on a bridge.

Nothing of it is in the machine's own network, and all of it ends with the context.
"""

import contextlib
import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterator

CLONE_NEWNET = 0x40000000
HEAD_ADDRESS = "10.77.0.1"
BRIDGE = "bridge0"
_libc = ctypes.CDLL(None, use_errno=True)


class Network:
    """A bridge in a network namespace that this thread is in, and a namespace for each host."""

    def __init__(self) -> None:
        self._holders: dict[str, subprocess.Popen[bytes]] = {}
        _ip("link", "set", "lo", "up")
        _ip("link", "add", "name", BRIDGE, "type", "bridge")
        _ip("address", "add", f"{HEAD_ADDRESS}/24", "dev", BRIDGE)
        _ip("link", "set", BRIDGE, "up")

    def add(self, host: str) -> str:
        """Make a host's namespace, which ends with its holder; return its address."""
        holder = subprocess.Popen(["unshare", "--net", "sh", "-c", "echo; exec sleep infinity"],
                                  stdout=subprocess.PIPE)  # fmt: skip
        assert holder.stdout is not None
        holder.stdout.readline()  # it is in its namespace
        self._holders[host] = holder
        address = f"10.77.0.{1 + len(self._holders)}"
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

    def inside(self, host: str) -> tuple[str, ...]:
        """Return the words by which a command is run on a host."""
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


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


__all__ = ["HEAD_ADDRESS", "Network", "network", "why_not"]
