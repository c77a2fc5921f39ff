"""One worker of several: a proxy process whose connections and routing tables come from a parent.

It serves as the only process of a proxy does. What differs: it shares the ledger with the others
(`ledger`), connections are handed to it (`acceptor`), and it is told everything over a channel
(`channel`): routing tables, to leave, to shut down. When the parent is gone it leaves by itself.
"""

import asyncio
import contextlib
import dataclasses
import os
import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from partitiond.core.routing import RoutingTable
from partitiond.proxy.acceptor import Complaint, take
from partitiond.proxy.arguments import ProxyArguments
from partitiond.proxy.channel import Channel, Message
from partitiond.proxy.control import describe
from partitiond.proxy.logs import LogFile, json_line
from partitiond.proxy.opening import Opener
from partitiond.proxy.quiet import QuietServer, end_server
from partitiond.proxy.server import LAST_SECONDS, data_config
from partitiond.proxy.shared import LEDGER_FILE, Bells, LedgerFile, Peers
from partitiond.proxy.state import ProxyState
from partitiond.proxy.tls import ServerTls, server_tls
from partitiond.serde import from_jsonable

if TYPE_CHECKING:
    from partitiond.proxy.client_connection import ClientConnection

ORPHAN_GRACE_SECONDS: Final = 30.0
"""When the parent was killed, what runs may take so long; meanwhile the next one is serving."""
POLL_SECONDS: Final = 0.05
CLOSE: Final = (b"connection", b"close")


@dataclasses.dataclass(frozen=True, slots=True)
class Post:
    """What a worker is started with; on the command line, for descriptors are inherited.

    Attributes:
        row: its row of the ledger.
        workers: how many there are.
        handoff, channel: descriptors of socket pairs with the parent.
        bells: descriptor of each row's bell.
    """

    row: int
    workers: int
    handoff: int
    channel: int
    bells: dict[int, int]


class Connections(set["ClientConnection"]):
    """Open connections; the parent learns of each that is closed."""

    def __init__(self, peers: Peers) -> None:
        super().__init__()
        self._peers = peers

    def discard(self, connection: object) -> None:
        """It is closed."""
        if connection in self:
            super().remove(connection)  # type: ignore[arg-type]
            self._peers.ledger.count_closed(self._peers.row)


async def work(arguments: ProxyArguments, post: Post, log: LogFile) -> None:
    """Serve until told to leave, or until the parent is gone."""
    options = arguments.options
    # Connections are handed out evenly, so a share of the bounds for each is about right.
    mine = dataclasses.replace(
        options,
        max_connections=-(-options.max_connections // post.workers),
        max_connections_per_address=-(-options.max_connections_per_address // post.workers),
    )
    file = LedgerFile(arguments.state_dir / LEDGER_FILE)
    peers = Peers(file, post.row, Bells(post.bells))
    state = ProxyState(mine, arguments.state_dir, log, peers)
    state.connections = Connections(peers)
    channel = await Channel.over(socket.socket(fileno=post.channel))
    handoff = socket.socket(fileno=post.handoff)
    handoff.setblocking(False)
    await _Worker(state, peers, channel, handoff, server_tls(options)).run(log)
    log.write(json_line("worker_ended", pid=os.getpid(), row=post.row))


class _Worker:
    def __init__(
        self,
        state: ProxyState,
        peers: Peers,
        channel: Channel,
        handoff: socket.socket,
        tls: ServerTls | None,
    ) -> None:
        self._state = state
        self._peers = peers
        self._channel = channel
        self._handoff = handoff
        self._server = QuietServer(data_config(state))
        self._family = socket.AF_INET
        self._opener = Opener(
            self._server, state, tls, gone=lambda: peers.ledger.count_closed(peers.row)
        )
        self._tls = tls
        self._complaint = Complaint("a worker cannot take connections")
        self._leaving: asyncio.Task[None] | None = None
        self._deadline = asyncio.Event()
        self._grace_seconds = 0.0

    async def run(self, log: LogFile) -> None:
        """Everything, from the first message to the last connection."""
        loop = asyncio.get_running_loop()
        watching = None if self._tls is None else loop.create_task(self._tls.watch(log))
        bell = self._peers.bells.descriptors[self._peers.row]
        loop.add_reader(bell, self._rung)
        serving = loop.create_task(self._server.serve([]))
        listening = loop.create_task(self._listen())
        await self._deadline.wait()
        loop.remove_reader(bell)
        self._stop_taking()
        self._opener.close()
        if watching is not None:
            watching.cancel()
        end_server(self._server, self._grace_seconds + LAST_SECONDS)
        await self._state.drain(self._grace_seconds)
        await serving
        await self._say_farewell()
        listening.cancel()
        self._state.close()

    async def _say_farewell(self) -> None:
        text = self._state.metrics.text().decode()
        with contextlib.suppress(ConnectionError):  # the parent went first
            await self._channel.send({"farewell": text, "traffic": self._state.traffic()})

    # What the parent says

    async def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        while (message := await self._channel.receive()) is not None:
            try:
                answer = self._do(message)
            except Exception as error:  # noqa: BLE001 -- whatever it is, the parent replaces us
                answer = {"error": f"{type(error).__name__}: {error}"}
            try:
                await self._channel.send(answer)
            except ConnectionError:
                break  # it asked, and was gone before the answer
        self._take()  # what it handed over last
        self._stop_taking()
        if self._leaving is None:
            self._leaving = loop.create_task(self._leave(ORPHAN_GRACE_SECONDS))

    def _do(self, message: Message) -> Message:
        match message["do"]:
            case "serve":
                self._family = message["family"]
                self._take_again()
            case "table":
                self._state.take_over(from_jsonable(RoutingTable, message["table"]))
            case "state":
                return describe(self._state)
            case "metrics":
                return {"text": self._state.metrics.text().decode()}
            case "traffic":
                return {"traffic": self._state.traffic()}
            case "leave":
                self._leaving = asyncio.create_task(self._leave(message["grace_seconds"]))
            case "shutdown":
                self._shut_down(message["grace_seconds"])
        return {}

    # Connections

    def _take(self) -> None:
        taken = take(self._handoff, self._family) if self._handoff.fileno() >= 0 else None
        if taken is None:
            self._stop_taking()  # the channel ends, too, and says what to do
            return
        for _ in range(taken.lost):
            self._peers.ledger.count_closed(self._peers.row)  # it counts as handed to us
        for connection in taken.connections:
            self._opener.open(connection)
        if taken.full:
            self._complaint.tell("too many open files")
            loop = asyncio.get_running_loop()
            loop.remove_reader(self._handoff)
            loop.call_later(POLL_SECONDS, self._take_again)

    def _take_again(self) -> None:
        if self._handoff.fileno() >= 0:
            asyncio.get_running_loop().add_reader(self._handoff, self._take)

    def _stop_taking(self) -> None:
        if self._handoff.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self._handoff)
            self._handoff.close()

    def _rung(self) -> None:
        """Another worker left a place to somebody who waits here."""
        self._peers.bells.silence(self._peers.row)
        self._state.look_again()

    # The end

    async def _leave(self, grace_seconds: float) -> None:
        """Take nothing new, and end when the connections have ended.

        Every answer now says that its connection closes, so that clients come back to another
        worker; what comes on an open connection until then is served. An idle connection ends at
        its usual time. So no request meets a connection that was closed under it.
        """
        headers = self._server.config.encoded_headers
        headers.append(CLOSE)
        self._server.server_state.default_headers.append(CLOSE)
        loop = asyncio.get_running_loop()
        last = loop.time() + grace_seconds
        while loop.time() < last and (self._opener or self._state.connections):  # noqa: ASYNC110 -- no event says so
            await asyncio.sleep(POLL_SECONDS)
        self._shut_down(0.0)

    def _shut_down(self, grace_seconds: float) -> None:
        self._grace_seconds = grace_seconds
        self._state.stop_admitting()
        self._deadline.set()


def read_post(words: Sequence[int]) -> Post:
    """From the command line: row, workers, handoff, channel, then row and bell by turns."""
    row, workers, handoff, channel, *bells = words
    return Post(row, workers, handoff, channel, dict(zip(bells[::2], bells[1::2], strict=True)))
