"""Plays the proxy of a host that does not keep to the protocol, on either side of it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Self

from partitiond.core.dispatch.routing import PeerRoute
from partitiond.proxy.peers.hop import head_lines
from partitiond.proxy.peers.messages import (
    Failed,
    ModelCounts,
    News,
    Open,
    PlacedAt,
    ReplicaCounts,
    encode,
    read_failed,
)
from tests.machine import pace
from tests.proxy.peers.hosts import Host

Lie = Callable[[], bytes]
"""The bytes that answer a request."""

BODY = b'{"model": "m", "prompt": "hi"}'
LOAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"


def placed(replica_id: str = "m-1") -> bytes:
    """The word that a request has a place."""
    return b"HTTP/1.1 103 Early Hints\r\nx-partitiond-hop: %b\r\n\r\n" % encode(
        PlacedAt(replica_id)
    )


def whole(body: bytes) -> bytes:
    """A whole answer."""
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
    return b"%bcontent-length: %d\r\n\r\n%b" % (head, len(body), body)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def failed(*, trailer: bool = False, **changes: object) -> bytes:
    """The end of a request without an answer, or without the rest of it."""
    made = Failed(502, "upstream_reset", "It broke.")
    for name, value in changes.items():
        setattr(made, name, value)
    return failure(encode(made), trailer=trailer)


def failure(told: bytes, *, trailer: bool = False) -> bytes:
    if trailer:
        return b"0\r\nx-partitiond-hop: %b\r\n\r\n" % told
    return b"HTTP/1.1 503 No\r\nx-partitiond-hop: %b\r\ncontent-length: 0\r\n\r\n" % told


def news(model: str = "m") -> bytes:
    """A line that tells one free replica of the model."""
    return line(News({model: ModelCounts([ReplicaCounts(f"{model}-1", 0, 100)])}))


def line(told: News) -> bytes:
    return chunk(encode(told) + b"\n")


def opened(
    body: bytes = BODY, host: str = "a", path: str = "/v1/completions", size: int = -1,
    **changes: object,
) -> bytes:  # fmt: skip
    """A request, all of whose body is in it unless it says another size."""
    asked = Open("m", "req-1", False, 1, 10, total_seconds=30.0)
    for name, value in changes.items():
        setattr(asked, name, value)
    head = head_lines(host) + b"x-partitiond-hop: " + encode(asked)
    length = len(body) if size < 0 else size
    return b"POST %b HTTP/1.1\r\n%b\r\ncontent-length: %d\r\n\r\n%b" % (
        path.encode(), head, length, body,
    )  # fmt: skip


class LyingEntry:
    """Calls a host's listener for peers, in the name of another one."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def call(cls, host: Host) -> Self:
        path = host.route.address.removeprefix("unix:")
        return cls(*await asyncio.open_unix_connection(path))

    async def head(self) -> bytes:
        """The next head."""
        return await self.reader.readuntil(b"\r\n\r\n")

    async def failed(self) -> Failed:
        """Why there is no answer."""
        return read_failed((await self.head()).partition(b"-hop: ")[2].partition(b"\r\n")[0])

    async def ended(self) -> None:
        """Wait until the host ends the connection."""
        with contextlib.suppress(ConnectionError):
            await self.reader.read(-1)
        self.writer.close()


class LyingOwner:
    """Answers each request by its script, and then closes the connection or holds it.

    Attributes:
        script: returns the bytes that answer a request.
        holds: whether connections stay open after the answer.
        asked: requests so far, over all connections.
        heads: of these requests.
        ended: connections of requests that the entry has ended.
        listeners: connections that it tells its load on.
        askers: connections of requests.
    """

    def __init__(self, path: Path, name: str) -> None:
        self.route = PeerRoute(name, f"unix:{path}")
        self.script: Lie = bytes
        self.holds = True
        self.asked = 0
        self.heads: list[bytes] = []
        self.ended = 0
        self.listeners: set[asyncio.StreamWriter] = set()
        self.askers: set[asyncio.StreamWriter] = set()
        self._path = path
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        with contextlib.suppress(ConnectionError, asyncio.CancelledError):
            head = await reader.readuntil(b"\r\n\r\n")
            if head.startswith(b"GET"):
                self.listeners.add(writer)
                await self.poll(writer)
            else:
                self.askers.add(writer)
                self.heads.append(head)
                await self._answer(reader, writer)
        self.listeners.discard(writer)
        self.askers.discard(writer)
        writer.close()
        self._tasks.discard(task)

    async def poll(self, writer: asyncio.StreamWriter) -> None:
        """Tell that it lives, as others do."""
        writer.write(LOAD)
        while not writer.is_closing():
            writer.write(news())
            await pace(1.0)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            self.asked += 1
            writer.write(self.script())
            if not self.holds:
                return
            await reader.readuntil(b"}")  # bodies are flat
            try:
                self.heads.append(await reader.readuntil(b"\r\n\r\n"))
            except asyncio.IncompleteReadError:
                self.ended += 1
                return

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["LyingOwner"]:
        """Listen."""
        server = await asyncio.start_unix_server(self.serve, str(self._path))
        try:
            yield self
        finally:
            server.close()
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
