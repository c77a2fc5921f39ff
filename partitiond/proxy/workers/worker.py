"""Runs one worker of several: a proxy process that a parent supplies with connections and tables.

A worker serves like the only process of a proxy, with three differences: it shares the ledger with
the other workers (`ledger`), the parent hands it connections of clients and of other hosts' proxies
(`acceptor`), and the parent sends it everything else over a channel (`channel`): routing tables,
and the order to shut down. It keeps connections of its own to the proxies of other hosts. A worker
leaves by itself when the parent is gone.
"""

import asyncio
import contextlib
import dataclasses
import functools
import os
import socket
from pathlib import Path
from typing import Final

from partitiond.core.dispatch.routing import RoutingTable
from partitiond.proxy.config import ProxyArguments
from partitiond.proxy.dispatch.ledger import PEERS
from partitiond.proxy.dispatch.shared import LEDGER_FILE, LedgerAccess, LedgerFile
from partitiond.proxy.edge.state import ProxyState
from partitiond.proxy.listening.acceptor import Intake
from partitiond.proxy.listening.handshakes import open_clients
from partitiond.proxy.listening.tls import ServerTls, server_tls
from partitiond.proxy.peer_server.server import PeerServer
from partitiond.proxy.peers.tls import PeerTls, peer_tls
from partitiond.proxy.server import LAST_SECONDS
from partitiond.proxy.telemetry.logs import LogFile, json_line
from partitiond.proxy.workers.channel import Channel, Message
from partitiond.serde import from_jsonable

ORPHAN_GRACE_SECONDS: Final = 30.0
"""Time for requests in flight after the parent was killed; the next parent serves meanwhile."""
POLL_SECONDS: Final = 0.05
"""Pause between two looks whether all connections have ended."""


@dataclasses.dataclass(frozen=True, slots=True)
class WorkerArguments:
    """Start parameters of a worker, on the command line because descriptors are inherited.

    Attributes:
        row: the worker's row of the ledger.
        workers: the number of workers.
        handoff, channel: descriptors of socket pairs with the parent.
        peers_handoff: descriptor of the socket pair for connections of other hosts' proxies; -1 if
            there are none.
    """

    row: int
    workers: int
    handoff: int
    channel: int
    peers_handoff: int = -1


async def work(arguments: ProxyArguments, post: WorkerArguments, log: LogFile) -> None:
    """Serve until told to shut down, or until the parent is gone."""
    options = arguments.options
    # Connections are handed out evenly, so each worker gets an equal share of the bound.
    mine = dataclasses.replace(options, max_connections=-(-options.max_connections // post.workers))
    file = LedgerFile(arguments.state_dir / LEDGER_FILE)
    ledger = LedgerAccess(file, post.row)
    peers_tls = peer_tls(Path(options.peers_tls)) if options.peers_tls else None
    state = ProxyState(mine, arguments.state_dir, log, ledger, peers_tls)
    channel = await Channel.over(socket.socket(fileno=post.channel))
    handoff = socket.socket(fileno=post.handoff)
    worker = _Worker(state, ledger, channel, handoff, server_tls(options, log))
    if post.peers_handoff >= 0:
        worker.serve_peers(socket.socket(fileno=post.peers_handoff), peers_tls)
    await worker.run()
    log.write(json_line("worker_ended", pid=os.getpid(), row=post.row))


class _Worker:
    """One worker.

    Attributes:
        peer_server: serves the proxies of other hosts; None if they cannot reach this one.
    """

    def __init__(
        self,
        state: ProxyState,
        ledger: LedgerAccess,
        channel: Channel,
        handoff: socket.socket,
        tls: ServerTls | None,
    ) -> None:
        self._state = state
        self._ledger = ledger
        self._channel = channel
        closed = functools.partial(ledger.ledger.count_closed, ledger.row)
        self._opener = open_clients(state, tls, closed)
        self._intakes = [Intake(handoff, self._opener.open, closed)]
        self.peer_server: PeerServer | None = None
        self._leaving: asyncio.Task[None] | None = None
        self._deadline = asyncio.Event()
        self._grace_seconds = 0.0

    def serve_peers(self, handoff: socket.socket, tls: PeerTls | None) -> None:
        """Serve the proxies of other hosts, too, on the connections that are handed over there."""
        closed = functools.partial(self._ledger.ledger.count_closed, self._ledger.row, PEERS)
        self.peer_server = PeerServer(self._state, tls, gone=closed)
        self._intakes.append(Intake(handoff, self.peer_server.open, closed))

    async def run(self) -> None:
        """Run the worker from the first message to the end of the last connection."""
        loop = asyncio.get_running_loop()
        listening = loop.create_task(self._listen())
        await self._deadline.wait()
        self._stop_taking()
        self._opener.close()
        if self.peer_server is not None:
            self.peer_server.leave()
        await self._state.drain(self._grace_seconds)
        if self.peer_server is not None:
            self.peer_server.close()
        await self._state.closed(LAST_SECONDS)
        await self._send_last_counts()
        listening.cancel()
        self._state.close()

    async def _send_last_counts(self) -> None:
        state = self._state
        counts = {"metrics": state.metrics.samples(), "traffic": state.traffic()}
        with contextlib.suppress(ConnectionError):  # the parent has already ended
            await self._channel.send({"farewell": counts})

    # Messages from the parent

    async def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        while (message := await self._channel.receive()) is not None:
            try:
                answer = self._do(message)
            except Exception as error:  # noqa: BLE001 -- on any error, the parent replaces us
                answer = {"error": f"{type(error).__name__}: {error}"}
            try:
                await self._channel.send(answer)
            except ConnectionError:
                break  # the parent ended before the answer
        for intake in self._intakes:
            intake.take()  # the connections that the parent handed over last
        self._stop_taking()
        if self._leaving is None:
            self._leaving = loop.create_task(self._leave())

    def _do(self, message: Message) -> Message:
        match message["do"]:
            case "serve":
                for intake, family in zip(self._intakes, message["families"], strict=True):
                    intake.family = family
                    intake.start()
            case "table":
                if message["table"] is not None:
                    self._state.take_over(from_jsonable(RoutingTable, message["table"]))
                self._state.word.learn(*message["word"])
            case "state":
                return self._state.describe()
            case "metrics":
                return {"metrics": self._state.metrics.samples()}
            case "traffic":
                return {"traffic": self._state.traffic()}
            case "shutdown":
                self._shut_down(message["grace_seconds"])
        return {}

    # Connections

    def _stop_taking(self) -> None:
        for intake in self._intakes:
            intake.stop()

    # The end

    async def _leave(self) -> None:
        """Take no new connections, and end when the open ones have ended.

        Every answer now says that its connection closes, so that clients reconnect to another
        worker. Until then, requests on an open connection are served. An idle connection ends at
        its usual time. Thus no request arrives on a connection that was closed under it.

        The proxies of other hosts are told, and end their connections once the requests on these
        have ended.
        """
        if self.peer_server is not None:
            self.peer_server.leave()
        self._state.says_goodbye = True
        loop = asyncio.get_running_loop()
        last = loop.time() + ORPHAN_GRACE_SECONDS
        while loop.time() < last and (  # noqa: ASYNC110 -- no event says so
            self._opener or self._state.connections or self.peer_server
        ):
            await asyncio.sleep(POLL_SECONDS)
        self._shut_down(0.0)

    def _shut_down(self, grace_seconds: float) -> None:
        self._grace_seconds = grace_seconds
        self._state.stop_admitting()
        self._deadline.set()
