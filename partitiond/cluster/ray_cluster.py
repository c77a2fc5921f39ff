"""Implements `ports.cluster.Cluster` with Ray: runs the bridge, and asks it."""

import asyncio
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from partitiond.cluster.kept_program import KeptProgram
from partitiond.cluster.ray_node import RayNode, client_environment
from partitiond.core.errors import HostSilentError, SilentError
from partitiond.hosts.line import SocketCarrier
from partitiond.platform.background import Background
from partitiond.ports.cluster import ClusterMember

BRIDGE: Final = Path(__file__).with_name("bridge.py")
CALL_SECONDS: Final = 5.0
"""Deadline of a message. Chosen: messages are answered at once, or within about a second."""
MEMBERS_SECONDS: Final = 5.0
MARK: Final = "bridge: "
"""Begins the lines of the bridge's log that are its own."""


class RayCluster:
    """Implements `ports.cluster.Cluster`. To be started and closed in the event loop.

    Args:
        node: of this host, which the bridge joins.
        socket: on which the bridge listens.
        log_path: file for what the bridge prints.
        seconds: deadline of a message.
    """

    def __init__(
        self, node: RayNode, socket: Path, log_path: Path, *, seconds: float = CALL_SECONDS
    ) -> None:
        self._socket = socket
        self._seconds = seconds
        settings = {
            "address": node.cluster_address,
            "node_address": node.address,
            "socket": str(socket),
        }
        self._bridge = KeptProgram(
            "the bridge to other hosts",
            [str(node.python), "-I", str(BRIDGE), json.dumps(settings)],
            client_environment(node.token_path, node.tls_dir, os.environ),
            log_path,
            MARK,
        )
        self._keeping = Background([self._bridge.keep])
        self._asker = SocketCarrier(socket, "", seconds=MEMBERS_SECONDS)

    async def start(self) -> None:
        """Start the bridge and keep it running. Does not wait until it has joined Ray."""
        self._keeping.start()

    async def close(self) -> None:
        """End the bridge. Ray goes on. Idempotent."""
        await self._keeping.stop()

    async def members(self) -> Sequence[ClusterMember]:
        """Return the hosts in the cluster. Raises SilentError."""
        try:
            answer = await self._asker.call(json.dumps({"ask": "members"}).encode())
        except HostSilentError as error:
            raise SilentError(
                f"the cluster cannot be asked: {error.facts.get('why', error.message)}.",
                hint=f"See {self._bridge.log_path}, and `partitiond hosts`; engines go on.",
                facts={"said": await asyncio.to_thread(self._bridge.last_words)},
            ) from error
        return tuple(ClusterMember(**member) for member in json.loads(answer)["members"])

    def line(self, host: str) -> SocketCarrier:
        """Return the line to a host, whether it is there now or not. Returns at once."""
        return SocketCarrier(self._socket, host, seconds=self._seconds)
