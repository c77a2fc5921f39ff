"""Implements `ports.cluster.Cluster` with Ray: runs the bridge, and asks it."""

import asyncio
import contextlib
import dataclasses
import json
import logging
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from partitiond.cluster import ray_node
from partitiond.core.errors import HostSilentError, SilentError
from partitiond.hosts.line import SocketCarrier
from partitiond.platform.background import Background
from partitiond.ports.cluster import ClusterMember

log = logging.getLogger(__name__)

BRIDGE: Final = Path(__file__).with_name("bridge.py")
CALL_SECONDS: Final = 5.0
"""Deadline of a message. Chosen: messages are answered at once, or within about a second."""
MEMBERS_SECONDS: Final = 5.0
PAUSES_SECONDS: Final = (0.2, 1.0, 2.0, 5.0)
"""Pauses before the bridge is started again, the last one for ever. Chosen: it takes 1.3 s to
start, and a head whose Ray is away is to be reached soon after its return."""
STEADY_SECONDS: Final = 60.0
"""Time that the bridge has to run for the pauses to begin anew."""
END_SECONDS: Final = 5.0
MARK: Final = "bridge: "
"""Begins the lines of the bridge's log that are its own."""
LOG_BYTES: Final = 1024 * 1024
"""Size from which the bridge's log is begun anew."""


@dataclasses.dataclass(frozen=True, slots=True)
class BridgePlace:
    """Where the bridge runs and what it joins.

    Attributes:
        python: an interpreter that has Ray.
        address: of Ray's control service, host:port.
        node_address: of this host's own node.
        socket: on which the bridge listens.
        log_path: file for what the bridge prints.
        token_path, tls_dir: as `RayNode`'s.
    """

    python: Path
    address: str
    node_address: str
    socket: Path
    log_path: Path
    token_path: Path
    tls_dir: Path | None = None

    @classmethod
    def beside(cls, node: ray_node.RayNode, socket: Path, log_path: Path) -> "BridgePlace":
        """Return the place of a bridge that joins this host's node."""
        return cls(
            node.python, node.cluster_address, node.address, socket, log_path,
            node.token_path, node.tls_dir,
        )  # fmt: skip


class RayCluster:
    """Implements `ports.cluster.Cluster`. To be started and closed in the event loop."""

    def __init__(self, place: BridgePlace, *, seconds: float = CALL_SECONDS) -> None:
        self._place = place
        self._seconds = seconds
        self._bridge: subprocess.Popen[bytes] | None = None
        self._keeping = Background([self._keep])
        self._asker = SocketCarrier(place.socket, "", seconds=MEMBERS_SECONDS)

    async def start(self) -> None:
        """Start the bridge and keep it running. Does not wait until it has joined Ray."""
        self._keeping.start()

    async def close(self) -> None:
        """End the bridge. Ray goes on. Idempotent."""
        await self._keeping.stop()
        bridge, self._bridge = self._bridge, None
        if bridge is not None:
            await _end(bridge)

    async def members(self) -> Sequence[ClusterMember]:
        """Return the hosts in the cluster. Raises SilentError."""
        try:
            answer = await self._asker.call(json.dumps({"ask": "members"}).encode())
        except HostSilentError as error:
            raise SilentError(
                f"the cluster cannot be asked: {error.facts.get('why', error.message)}.",
                hint=f"See {self._place.log_path}, and `partitiond hosts`; engines go on.",
                facts={"said": await asyncio.to_thread(_last_words, self._place.log_path)},
            ) from error
        return tuple(ClusterMember(**member) for member in json.loads(answer)["members"])

    def line(self, host: str) -> SocketCarrier:
        """Return the line to a host, whether it is there now or not. Returns at once."""
        return SocketCarrier(self._place.socket, host, seconds=self._seconds)

    @property
    def bridge_pid(self) -> int | None:
        """Process id of the bridge; None between two."""
        bridge = self._bridge
        return None if bridge is None or bridge.poll() is not None else bridge.pid

    async def _keep(self) -> None:
        loop, tried = asyncio.get_running_loop(), 0
        while True:
            started, bridge = loop.time(), self._start_bridge()
            self._bridge = bridge
            code = await _ended(bridge)
            if bridge.stdin is not None:
                bridge.stdin.close()
            tried = 0 if loop.time() - started > STEADY_SECONDS else tried + 1
            pause = PAUSES_SECONDS[min(tried, len(PAUSES_SECONDS) - 1)]
            log.warning(
                "the bridge to other hosts ended (exit status %s): %s; started again in %g s",
                code, _last_words(self._place.log_path), pause,
            )  # fmt: skip
            await asyncio.sleep(pause)

    def _start_bridge(self) -> "subprocess.Popen[bytes]":
        """Start the bridge. Raises OSError."""
        place = self._place
        settings = {
            "address": place.address,
            "node_address": place.node_address,
            "socket": str(place.socket),
        }
        place.log_path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with place.log_path.open("ab") as output:
            if output.tell() > LOG_BYTES:
                output.truncate(0)
            # Its standard input ends with this process, and the bridge with it.
            return subprocess.Popen(
                [str(place.python), "-I", str(BRIDGE), json.dumps(settings)],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                env=ray_node.client_environment(place.token_path, place.tls_dir, os.environ),
                cwd="/",
                start_new_session=True,
            )


async def _ended(bridge: "subprocess.Popen[bytes]") -> int:
    """Return the exit status of the bridge once it ended."""
    try:
        descriptor = os.pidfd_open(bridge.pid)
    except ProcessLookupError:
        return bridge.wait()
    loop, readable = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(descriptor, readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)
    return bridge.wait()


async def _end(bridge: "subprocess.Popen[bytes]") -> None:
    if bridge.stdin is not None:
        bridge.stdin.close()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(END_SECONDS):
            await _ended(bridge)
    if bridge.poll() is None:
        bridge.kill()
        bridge.wait()


def _last_words(path: Path) -> str:
    """Return the last line of the log that is the bridge's own; the others are Ray's."""
    with contextlib.suppress(OSError):
        for line in reversed(path.read_bytes()[-65536:].decode(errors="replace").splitlines()):
            if line.startswith(MARK):
                return line.removeprefix(MARK)
    return "it said nothing"
