"""Implements `ports.cluster.Cluster` without Ray, for tests and for trials on one machine.

Each agent answers on a socket in one folder, "HOST.sock"; the folder's sockets are the members.
"""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from partitiond.core.errors import SilentError
from partitiond.hosts.line import SocketCarrier
from partitiond.ports.cluster import ClusterMember

SUFFIX: Final = ".sock"
SECONDS: Final = 5.0


class SocketCluster:
    """Reaches the agents whose sockets lie in a folder."""

    def __init__(self, folder: Path, *, seconds: float = SECONDS) -> None:
        self._folder = folder
        self._seconds = seconds

    def socket(self, host: str) -> Path:
        """Return where the agent of a host answers."""
        return self._folder / f"{host}{SUFFIX}"

    async def members(self) -> Sequence[ClusterMember]:
        """Return the hosts with a socket, by name. Raises SilentError."""
        return await asyncio.to_thread(self._members)

    def _members(self) -> Sequence[ClusterMember]:
        if not self._folder.is_dir():
            raise SilentError(f"the folder of the cluster, {self._folder}, is gone.")
        found = sorted(path.name.removesuffix(SUFFIX) for path in self._folder.glob(f"*{SUFFIX}"))
        return tuple(ClusterMember(host, str(self.socket(host))) for host in found)

    def line(self, host: str) -> SocketCarrier:
        """Return the line to a host, whether it is there now or not."""
        return SocketCarrier(self.socket(host), host, seconds=self._seconds)
