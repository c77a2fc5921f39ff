"""Stands between the proxy and an engine, and applies faults of networks and engines to answers.

The fault proxy listens on a Unix socket (or a TCP port), sends each request on to the engine,
splits the answer into units (head, chunks, body) and applies the fault at the unit that the fault's
phase names. A plan decides the fault of a request, so that it does not depend on timing:

- `PromptPlan`: the request's prompt names the fault (`fault=reset@in_head`);
- `SeededPlan`: the fault is drawn from a seed and the request's token.

Before a fault it waits until the other side has read all earlier bytes, so that a reset does not
discard bytes that were sent.
"""

import array
import asyncio
import collections
import contextlib
import dataclasses
import fcntl
import random
import re
import socket
import struct
import termios
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from tests.chaos.echo_engine import Wish, answer_pieces, words_of
from tests.chaos.faults import EVENTS, Fault, Kind, Phase, drawn

DELAY_SECONDS = 0.05
DEAF_SECONDS = 20.0
"""Longer than every time limit of the proxies under test."""
_LENGTH = re.compile(rb"(content-length: *)(\d+)", re.IGNORECASE)
_HEAD_END = b"\r\n\r\n"
_STOLEN = Wish(False, False, False, "STOLEN", 3, 0, 0.0, "", False)


@dataclasses.dataclass(frozen=True, slots=True)
class Seen:
    """A request as a plan sees it.

    Attributes:
        earlier: attempts of the same request before this one, on any fault proxy of the plan.
        on_connection: requests on this connection before this one.
    """

    body: bytes
    earlier: int
    on_connection: int


class PromptPlan:
    """The request's prompt says what happens to it; `first` attempts only, or always."""

    def __init__(self) -> None:
        self._attempts: collections.Counter[str] = collections.Counter()
        self.struck: collections.Counter[str] = collections.Counter()

    def fault(self, body: bytes, on_connection: int) -> Fault | None:
        """What happens to this attempt."""
        words = words_of(body)
        token = words.get("token", "")
        seen = Seen(body, self._attempts[token], on_connection)
        self._attempts[token] += 1
        fault = self.choose(seen, token, words)
        if fault is None or (seen.earlier and not fault.always):
            return None
        self.struck[str(fault.kind)] += 1
        return fault

    def choose(self, seen: Seen, token: str, words: dict[str, str]) -> Fault | None:
        """The fault of a request, whichever attempt it is."""
        return Fault.parse(words["fault"]) if "fault" in words else None

    def attempts(self, token: str) -> int:
        """How often a request came."""
        return self._attempts[token]


class SeededPlan(PromptPlan):
    """A share of the requests meets a drawn fault: the same ones for the same seed."""

    def __init__(self, seed: int, share: float) -> None:
        super().__init__()
        self._seed = seed
        self._share = share

    def choose(self, seen: Seen, token: str, words: dict[str, str]) -> Fault | None:
        rng = random.Random(f"{self._seed}-{token}")
        if rng.random() >= self._share:
            return None
        return drawn(rng, stream=words.get("shape") == "stream")


class ReusePlan(PromptPlan):
    """A fault meets the requests that come on a connection that served before."""

    def choose(self, seen: Seen, token: str, words: dict[str, str]) -> Fault | None:
        return super().choose(seen, token, words) if seen.on_connection else None


class FaultProxy:
    """One listener in front of one engine.

    Attributes:
        on_accept: what happens to each new connection before any request; None for nothing.
        open: connections of the proxy under test.
        accepted: connections so far.
    """

    def __init__(
        self, listen: Path | int, engine: Path, plan: PromptPlan, *, seed: int = 0
    ) -> None:
        self.listen = listen
        self._engine = engine
        self._plan = plan
        self._random = random.Random(seed)
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.on_accept: Callable[[int], Kind | None] | None = None
        self.open = 0
        self.accepted = 0

    @property
    def path(self) -> Path:
        """Its Unix socket."""
        assert isinstance(self.listen, Path)
        return self.listen

    async def start(self) -> None:
        if isinstance(self.listen, Path):
            self._server = await asyncio.start_unix_server(self._serve, str(self.listen))
        else:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.listen)
            self.listen = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        await self.hang_up()
        if isinstance(self.listen, Path):
            self.listen.unlink(missing_ok=True)

    async def hang_up(self) -> None:
        """Close all connections."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.open += 1
        self.accepted += 1
        wire = _Wire(reader, writer, self._random)
        try:
            kind = self.on_accept(self.accepted) if self.on_accept is not None else None
            if kind is None or await wire.strike(kind, b""):
                await self._connection(wire)
        except (asyncio.IncompleteReadError, OSError, asyncio.CancelledError):
            pass  # one of the two sides has left
        finally:
            self.open -= 1
            self._tasks.discard(task)
            writer.transport.abort()

    async def _connection(self, wire: "_Wire") -> None:
        served = 0
        while True:
            head = await wire.reader.readuntil(_HEAD_END)
            length = _LENGTH.search(head)
            body = await wire.reader.readexactly(int(length[2]) if length else 0)
            fault = self._plan.fault(body, served)
            wire.begin()
            relay = asyncio.create_task(self._relay(wire, head + body, fault))
            if not await wire.unless_left(relay):
                return
            served += 1

    async def _relay(self, wire: "_Wire", request: bytes, fault: Fault | None) -> bool:
        """Carry one request and its answer; whether the connection serves on."""
        reader, writer = await asyncio.open_unix_connection(str(self._engine))
        try:
            writer.write(request)
            contents = 0
            async for name, data in units(reader):
                cut = None if fault is None else cut_of(fault, name, contents, len(data))
                if cut is None or fault is None:
                    await wire.send(data)
                elif fault.phase is Phase.AFTER_ANSWER and wire.damages(fault.kind):
                    # In one piece: what comes after the connection was used again is an answer
                    # to the next request, whoever looks at it.
                    await wire.send(data + wire.damaged(fault.kind, b""))
                else:
                    await wire.send(data[:cut])
                    await wire.settled()
                    wire.is_over = (fault.kind, fault.phase) == (Kind.STALL, Phase.AFTER_ANSWER)
                    if not await wire.strike(fault.kind, data[cut:]):
                        return False
                contents += name == "content"
            if wire.close_after:
                await wire.settled()
            return not wire.close_after
        finally:
            writer.transport.abort()


async def units(reader: asyncio.StreamReader) -> AsyncIterator[tuple[str, bytes]]:
    """An engine's answer as (head | chunk | content | done | end | body, bytes)."""
    head = await reader.readuntil(_HEAD_END)
    yield "head", head
    if b"chunked" not in head:
        length = _LENGTH.search(head)
        yield "body", await reader.readexactly(int(length[2]) if length else 0)
        return
    while True:
        line = await reader.readuntil(b"\r\n")
        data = line + await reader.readexactly(int(line, 16) + 2)
        if data.startswith(b"0\r\n"):
            yield "end", data
            return
        if b"[DONE]" in data:
            yield "done", data
        else:
            yield ("content" if b"finish_reason" in data else "chunk"), data


def cut_of(fault: Fault, name: str, contents: int, size: int) -> int | None:
    """How many bytes of a unit go before the fault strikes; None where it does not."""
    first, later = contents == 0, contents == EVENTS
    places: dict[Phase, tuple[bool, int]] = {
        Phase.BEFORE_HEAD: (name == "head", 0),
        Phase.IN_HEAD: (name == "head", size // 2),
        Phase.AFTER_HEAD: (name == "head", size),
        Phase.IN_BODY: (name == "body", size // 2),
        Phase.BEFORE_CONTENT: (name == "content" and first, 0),
        Phase.IN_FIRST_CHUNK: (name == "content" and first, size // 2),
        Phase.AFTER_EVENTS: (name == "content" and later, 0),
        Phase.IN_CHUNK: (name == "content" and later, size // 2),
        Phase.BEFORE_DONE: (name == "done", 0),
        Phase.AFTER_DONE: (name == "end", 0),
        Phase.AFTER_ANSWER: (name in {"end", "body"}, size),
    }
    here, cut = places.get(fault.phase, (False, 0))
    return cut if here else None


class _Wire:
    """The side towards the proxy under test."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, rng: random.Random
    ) -> None:
        self.reader = reader
        self._writer = writer
        self._random = rng
        self.begin()

    def begin(self) -> None:
        """Another request: what happened to the one before it is over."""
        self._trickles = False
        self._ends_early = False
        self.close_after = False
        self.is_over = False
        """All was answered, and it stalls: it ends with the next request, as idle ones do."""

    async def unless_left(self, relay: "asyncio.Task[bool]") -> bool:
        """The relay's result; False when the other side leaves first, and it is given up.

        Who has all of an answer may send the next request before the relay has ended.
        """
        early = bytearray()
        leaving = asyncio.create_task(self._leaving(early))
        try:
            await asyncio.wait({relay, leaving}, return_when=asyncio.FIRST_COMPLETED)
            return relay.done() and not relay.cancelled() and relay.result()
        finally:
            for task in (relay, leaving):
                task.cancel()
            await asyncio.gather(relay, leaving, return_exceptions=True)
            self.reader._buffer[:0] = early  # type: ignore[attr-defined]

    async def _leaving(self, early: bytearray) -> None:
        """Wait until the other side is done with; keep what it sends before that."""
        while data := await self.reader.read(65_536):
            early += data
            if self.is_over:
                return

    async def send(self, data: bytes) -> None:
        """Send, as fast or as slowly as this connection has become."""
        if self._ends_early and not data.startswith(b"HTTP/1."):
            data = data[:-1]
        if self._trickles:
            for byte in data:
                self._writer.write(bytes((byte,)))
                await asyncio.sleep(0)
        else:
            self._writer.write(data)
        await self._writer.drain()

    async def settled(self) -> None:
        """Wait until the other side has read everything (over TCP: has taken it)."""
        connection = self._writer.get_extra_info("socket")
        unread = array.array("i", [1])
        for _ in range(200):
            if self._writer.is_closing():
                raise ConnectionResetError
            fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, unread)
            if unread[0] == 0:
                return
            await asyncio.sleep(0.001)

    async def strike(self, kind: Kind, rest: bytes) -> bool:
        """Let it happen; whether the answer goes on after it."""
        if kind is Kind.DELAY:
            await asyncio.sleep(DELAY_SECONDS)
        elif kind is Kind.TRICKLE:
            self._trickles = True
        elif kind is Kind.STALL:
            await asyncio.Event().wait()  # until the other side leaves
        elif kind is Kind.DEAF:
            self._writer.transport.pause_reading()  # type: ignore[attr-defined]
            await asyncio.sleep(DEAF_SECONDS)
            return False
        elif kind is Kind.CLOSE:
            self._writer.close()
            return False
        elif kind is Kind.HALF_CLOSE:
            self._writer.write_eof()
            await asyncio.Event().wait()
        elif kind is Kind.RESET:
            self._reset()
            return False
        else:
            await self.send(self.damaged(kind, rest))
            self.close_after = kind in {Kind.TOO_LONG, Kind.NO_LENGTH}
            self._ends_early = kind is Kind.NO_LENGTH
            return True
        await self.send(rest)
        return True

    def damages(self, kind: Kind) -> bool:
        """Whether it changes the bytes, not when or whether they come."""
        return kind in {Kind.GARBAGE, Kind.SURPLUS}

    def damaged(self, kind: Kind, rest: bytes) -> bytes:
        """The rest of a unit, with the damage."""
        if kind is Kind.GARBAGE:
            return b"\x00\xff\xfe" + self._random.randbytes(24) + rest
        if kind is Kind.BAD_CHUNK:
            return b"zz\r\n" + rest
        if kind is Kind.TOO_LONG:
            return _resized(rest, 7)
        if kind is Kind.TOO_SHORT:
            # One byte: what is left of a JSON object may still end with a brace.
            return _resized(rest, -1 if rest.startswith(b"HTTP/1.") else -7)
        if kind is Kind.NO_LENGTH:
            return _LENGTH.sub(b"x-was-\\1\\2", rest)
        if kind is Kind.TWO_HEADS:
            return b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n" + rest
        assert kind is Kind.SURPLUS
        return rest + b"".join(answer_pieces(_STOLEN))

    def _reset(self) -> None:
        connection = self._writer.get_extra_info("socket")
        if connection.family != socket.AF_UNIX:
            linger = struct.pack("ii", 1, 0)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self._writer.transport.abort()


def _resized(unit: bytes, by: int) -> bytes:
    """A head with another content length, or a chunk with another size."""
    if unit.startswith(b"HTTP/1."):
        return _LENGTH.sub(lambda m: m[1] + str(int(m[2]) + by).encode(), unit)
    size, _, rest = unit.partition(b"\r\n")
    return b"%x\r\n%b" % (int(size, 16) + by, rest)


@contextlib.asynccontextmanager
async def faulty(
    listen: Path | int, engine: Path, plan: PromptPlan, *, seed: int = 0
) -> AsyncIterator[FaultProxy]:
    """A fault proxy in this event loop."""
    proxy = FaultProxy(listen, engine, plan, seed=seed)
    await proxy.start()
    try:
        yield proxy
    finally:
        await proxy.stop()
