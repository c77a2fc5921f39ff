"""Plays the proxy of a host that does not keep to the protocol, on either side of it."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from pathlib import Path
from typing import Self

from partitiond.core.dispatch.routing import PeerRoute
from partitiond.proxy.peers import frames
from partitiond.proxy.peers.frames import FrameReader, frame
from partitiond.proxy.peers.messages import (
    AnswerHead,
    Hello,
    ModelCounts,
    Open,
    PlacedAt,
    ReplicaCounts,
    encode,
)
from tests.proxy.peers.hosts import Host

Frames = Sequence[tuple[int, bytes]]
"""(kind, payload) of each, about the request that was asked."""
Lie = Callable[[], Frames]

BODY = b'{"model": "m", "prompt": "hi"}'
PLACED = (frames.PLACED, encode(PlacedAt("m-1")))
STREAM = (frames.HEAD, encode(AnswerHead(200, b"text/event-stream", stream=True)))
WHOLE = (frames.HEAD, encode(AnswerHead(200, b"application/json")))


def counts(model: str = "m", last: int = 0) -> bytes:
    """The payload of counts: one free replica of the model."""
    told = {model: ModelCounts([ReplicaCounts(f"{model}-1", 0, 100)])}
    now = int(time.monotonic() * 1e6)
    return last.to_bytes(4, "big") + now.to_bytes(8, "big") + encode(told)


def opened(body: bytes = BODY, **changes: object) -> bytes:
    """The payload of a request, all of whose body is in it."""
    asked = Open("m", "/v1/completions", "req-1", len(body), False, 1, 10, total_seconds=30.0)
    for name, value in changes.items():
        setattr(asked, name, value)
    head = encode(asked)
    return len(head).to_bytes(4, "big") + head + body


class LyingEntry:
    """Calls a host's listener for peers, in the name of another one."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self._cutter = FrameReader()
        self._kept: list[tuple[int, int, bytes]] = []

    @classmethod
    async def call(cls, host: Host, name: str = "a") -> Self:
        path = host.route.address.removeprefix("unix:")
        caller = cls(*await asyncio.open_unix_connection(path))
        caller.send(frames.HELLO, 0, encode(Hello(1, name)))
        return caller

    def send(self, kind: int, number: int, payload: bytes = b"") -> None:
        self.writer.write(frame(kind, number, payload))

    def ask(self, numbers: Iterable[int], body: bytes = BODY, **changes: object) -> None:
        """Send a request for each number."""
        for number in numbers:
            self.send(frames.OPEN, number, opened(body, **changes))

    async def heard(self, kind: int) -> tuple[int, bytes]:
        """Number and payload of the next frame of this kind; others are passed over."""
        while True:
            while self._kept:
                got, number, payload = self._kept.pop(0)
                if got == kind:
                    return number, payload
            data = await self.reader.read(65536)
            assert data, "the connection has ended"
            self._kept += self._cutter.feed(data)

    async def ended(self) -> None:
        """Wait until the host ends the connection."""
        await self.reader.read(-1)
        self.writer.close()


class LyingOwner:
    """Answers each request by its script, and then closes the connection or holds it.

    Attributes:
        script: returns the frames that answer a request.
        holds: whether connections stay open after the answer.
        hears: cleared, it reads nothing.
        asked: numbers of requests so far, over all connections.
        ended: connections that the entry has ended.
        writers: of its connections.
    """

    def __init__(self, path: Path, name: str) -> None:
        self.route = PeerRoute(name, f"unix:{path}")
        self.script: Lie = list
        self.holds = True
        self.hears = asyncio.Event()
        self.hears.set()
        self.asked = 0
        self.ended = 0
        self.writers: set[asyncio.StreamWriter] = set()
        self._path = path
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        writer.write(frame(frames.HELLO, 0, encode(Hello(1, self.route.host))))
        writer.write(frame(frames.COUNTS, 0, counts()))
        self.writers.add(writer)
        cutter, asked = FrameReader(), self.asked
        with contextlib.suppress(ConnectionError, asyncio.CancelledError):
            while data := await reader.read(65536):
                await self.hears.wait()
                for kind, number, _ in cutter.feed(data):
                    self._answer(writer, kind, number)
                if self.asked > asked and not self.holds:
                    break
            else:
                self.ended += 1
        self.writers.discard(writer)
        writer.close()
        self._tasks.discard(task)

    def _answer(self, writer: asyncio.StreamWriter, kind: int, number: int) -> None:
        if kind == frames.PING:  # it tells that it lives, as others do
            writer.write(frame(frames.COUNTS, 0, counts(last=self.asked)))
        elif kind == frames.OPEN:
            self.asked += 1
            for one, payload in self.script():
                writer.write(frame(one, number, payload))

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
