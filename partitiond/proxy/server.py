"""Runs the proxy as one process: two listeners on one event loop, one state.

With several workers, `workers` has the listeners, and each worker has a state (`worker`).
"""

import asyncio
import contextlib
import dataclasses
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from partitiond.core.dispatch.routing import RoutingTable
from partitiond.proxy.config import ProxyArguments
from partitiond.proxy.control import ControlServer
from partitiond.proxy.dispatch.table_file import write_atomically
from partitiond.proxy.edge.state import ProxyState
from partitiond.proxy.listening.acceptor import Accepting
from partitiond.proxy.listening.handshakes import open_clients
from partitiond.proxy.listening.opening import exclusive, listen_tcp, listen_unix
from partitiond.proxy.listening.tls import ServerTls, server_tls
from partitiond.proxy.peer_server.server import PeerServer, listen_for_peers
from partitiond.proxy.peers.tls import PeerTls, peer_tls
from partitiond.proxy.process import PID_FILE, arguments_text, own_identity
from partitiond.proxy.telemetry.logs import LogFile, json_line
from partitiond.proxy.telemetry.traffic import leave_behind, new_epoch
from partitiond.serde import to_stored_json

SIGNAL_GRACE_SECONDS: Final = 30.0
"""Grace of a shutdown by SIGTERM, which carries no grace of its own."""
LAST_SECONDS: Final = 2.0
"""After the grace: time for error events to reach clients and connections to close."""


@dataclasses.dataclass
class Listeners:
    """What one proxy has open, with workers or without.

    Attributes:
        clients, control, peers: sockets; peers, of other hosts' proxies, only where they are set.
        tls: of clients, if it is on.
        peers_tls: of other hosts' proxies, if they have certificates.
        about: its identity.
    """

    clients: socket.socket
    control: socket.socket
    peers: socket.socket | None
    tls: ServerTls | None
    peers_tls: PeerTls | None
    about: dict[str, Any]


@contextlib.contextmanager
def listening(arguments: ProxyArguments, log: LogFile) -> Iterator[Listeners]:
    """Hold the state folder and all listeners, and be found by a daemon until the end.

    Raises:
        ConflictError: another proxy runs on this state folder.
        SettingsError: the proxy cannot listen on an address, or certificates cannot be used.
        DeviceError: another program uses a port.
    """
    options = arguments.options
    with exclusive(arguments.state_dir), contextlib.ExitStack() as stack:
        tls = server_tls(options, log)
        peers_tls = peer_tls(Path(options.peers_tls)) if options.peers_tls else None
        clients = stack.enter_context(listen_tcp(arguments.host, arguments.port))
        control = stack.enter_context(listen_unix(arguments.control_socket))
        peers = None
        if options.peers_address:
            peers = stack.enter_context(listen_for_peers(options.peers_address))
        port = clients.getsockname()[1]
        text = arguments_text(arguments.host, arguments.port, options)
        identity = own_identity(arguments.host, port, arguments.control_socket, text)
        pid_file = arguments.state_dir / PID_FILE
        write_atomically(pid_file, to_stored_json(identity).encode())
        yield Listeners(clients, control, peers, tls, peers_tls, dataclasses.asdict(identity))
        pid_file.unlink(missing_ok=True)
        arguments.control_socket.unlink(missing_ok=True)


async def serve(arguments: ProxyArguments, log: LogFile) -> None:
    """Serve until shut down. Raises as `listening`."""
    with listening(arguments, log) as opened:
        state = ProxyState(arguments.options, arguments.state_dir, log, tls=opened.peers_tls)
        state.load()
        servers = _Servers(state, log, opened)
        await servers.run()
        leave_behind(arguments.state_dir, await servers.traffic())


class _Servers:
    """All listeners, from the first request to the last. Implements `control.Plane`."""

    def __init__(self, state: ProxyState, log: LogFile, opened: Listeners) -> None:
        self._state = state
        self._opened = opened
        self._tls = opened.tls
        self._log = log
        self._about = opened.about
        self._epoch = new_epoch()
        self._stop = asyncio.Event()
        self._grace_seconds = SIGNAL_GRACE_SECONDS

    @property
    def version(self) -> int:
        """Version of the routing table in force."""
        return self._state.table.version

    async def apply(self, table: RoutingTable) -> bool:
        """Take over a newer table."""
        return self._state.apply(table)

    async def describe(self) -> dict[str, Any]:
        """Return the answer to GET /state."""
        return {**self._about, **self._state.describe()}

    async def metrics(self) -> bytes:
        """Return Prometheus text."""
        return self._state.metrics.text()

    async def traffic(self) -> dict[str, Any]:
        """Return the answer to GET /traffic."""
        return {**self._state.traffic(), "epoch": self._epoch}

    def shut_down(self, grace_seconds: float) -> None:
        """Begin the shutdown; requests in flight get this grace."""
        self._grace_seconds = grace_seconds
        self._state.stop_admitting()
        self._stop.set()

    async def run(self) -> None:
        """Serve until `shut_down`; then stop listening, drain, and end the control socket last."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.shut_down, SIGNAL_GRACE_SECONDS)
        opener = open_clients(self._state, self._tls)
        accepting = Accepting(self._opened.clients, opener.open)
        peers: PeerServer | None = None
        if self._opened.peers is not None:
            peers = PeerServer(self._state, self._opened.peers_tls)
            peers.listen(self._opened.peers)
        answering = await ControlServer.start(self, self._opened.control)
        self._log.write(json_line("started", version=self._state.table.version, **self._about))
        await self._stop.wait()
        self._log.write(json_line("stopping", grace_seconds=self._grace_seconds))
        accepting.close()
        opener.close()
        if peers is not None:
            peers.leave()
        await self._state.drain(self._grace_seconds)
        if peers is not None:
            peers.close()
        await self._state.closed(LAST_SECONDS)
        await answering.close()
        self._state.close()
