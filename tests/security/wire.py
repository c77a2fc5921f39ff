"""Sends raw bytes to a proxy as a client, and reads answers strictly."""

import asyncio
import dataclasses
import json
import re
from collections.abc import Sequence
from typing import Any, Self, cast

from tests.proxy.virtual import RawClient, VirtualLoop, settled

SILENT_SECONDS = 600.0
"""Longest wait for an answer; reached only where a test fails."""
PROBE = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n"
STATUS_LINE = re.compile(rb"HTTP/1\.1 ([1-5][0-9][0-9])( [\x20-\x7e]*)?")
HEADER = re.compile(rb"([a-z0-9-]+): ([\t\x20-\x7e\x80-\xff]*)", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Answer:
    """One answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> dict[str, Any]:
        """The body as an object."""
        parsed = json.loads(self.body)
        assert isinstance(parsed, dict)
        return parsed

    @property
    def code(self) -> str:
        """Code of an error in OpenAI's shape; empty for an answer that is none."""
        if self.status < 400:
            return ""
        error = self.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}, error
        assert isinstance(error["message"], str)
        assert error["message"]
        assert isinstance(error["type"], str)
        return str(error["code"])


@dataclasses.dataclass(frozen=True)
class Exchange:
    """Everything that came back on one connection; `closed` when the proxy ended it."""

    answers: tuple[Answer, ...]
    closed: bool


class Wire(asyncio.Protocol):
    """One connection, which ends with the test. What came is kept, however the connection ends."""

    def __init__(self) -> None:
        self.closed = False
        self._data = bytearray()
        self._more = asyncio.Event()

    @classmethod
    async def to(cls, port: int) -> Self:
        """Connect."""
        loop = asyncio.get_running_loop()
        _, wire = await loop.create_connection(cls, "127.0.0.1", port)
        if isinstance(loop, VirtualLoop):
            loop.clients.append(cast("RawClient", wire))  # it is ended as one
        return wire

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._data += data
        self._more.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        self._more.set()

    def send(self, data: bytes) -> None:
        """Send what can be sent; a proxy that closes in between has said what it thinks of it."""
        if not self._transport.is_closing():
            self._transport.write(data)

    def shut(self) -> None:
        """Send nothing more."""
        if not self._transport.is_closing():
            self._transport.write_eof()

    def leave(self) -> None:
        """Close at once."""
        if not self.closed:
            self._transport.abort()

    async def ask(self, data: bytes) -> Answer:
        """Send a request, and read its answer."""
        self.send(data)
        answer = await self.answer()
        assert answer is not None, data[:300]
        return answer

    async def answer(self, *, head_only: bool = False) -> Answer | None:
        """The next answer, informational ones passed over; None when the proxy closed."""
        head = await self._until(b"\r\n\r\n")
        if not head:
            assert not self._data, f"cut answer: {bytes(self._data[:300])!r}"
            return None
        lines = head[:-4].split(b"\r\n")
        match = STATUS_LINE.fullmatch(lines[0])
        assert match is not None, lines[0]
        headers: dict[str, str] = {}
        for line in lines[1:]:
            found = HEADER.fullmatch(line)
            assert found is not None, line
            name = found[1].decode().lower()
            assert name not in headers, f"{name} twice"
            headers[name] = found[2].decode("latin-1")
        status = int(match[1])
        if status < 200:
            return await self.answer(head_only=head_only)
        return Answer(status, headers, b"" if head_only else await self._body(headers))

    async def end(self) -> bool:
        """Wait for the proxy to close; False when it sends more instead."""
        await self._receive()
        return not self._data

    def received(self) -> bytes:
        """All that came and was not read."""
        return bytes(self._data)

    async def rest(self) -> bytes:
        """All that comes until the proxy closes."""
        while not self.closed:
            await self._receive()
        return self.received()

    async def _body(self, headers: dict[str, str]) -> bytes:
        assert ("content-length" in headers) != ("transfer-encoding" in headers), headers
        if "content-length" in headers:
            return await self._take(int(headers["content-length"]))
        parts = bytearray()
        while size := int(await self._until(b"\r\n"), 16):
            parts += await self._take(size)
            assert await self._take(2) == b"\r\n"
        assert await self._take(2) == b"\r\n"
        return bytes(parts)

    async def _until(self, marker: bytes) -> bytes:
        """All up to a marker, and with it; nothing if it does not come."""
        while (end := self._data.find(marker)) < 0:
            if self.closed:
                return b""
            await self._receive()
        return await self._take(end + len(marker))

    async def _take(self, count: int) -> bytes:
        while len(self._data) < count:
            assert not self.closed, "cut body"
            await self._receive()
        taken = bytes(self._data[:count])
        del self._data[:count]
        return taken

    async def _receive(self) -> None:
        if not self.closed:
            async with asyncio.timeout(SILENT_SECONDS):
                await self._more.wait()
            self._more.clear()


async def status_of(port: int, data: bytes) -> int:
    """Status of the first answer."""
    return (await exchange(port, data, 1)).answers[0].status


async def exchange(
    port: int, data: bytes | Sequence[bytes], answers: int, *, head_only: bool = False
) -> Exchange:
    """Send bytes, read so many answers, and find out whether the connection is still good.

    Pieces are sent one by one, each once the proxy has read the one before.

    It is when a probe sent then gets its own answer, and that answer alone: bytes of the attack
    that still lie in the proxy would be read as another request.
    """
    wire = await Wire.to(port)
    try:
        for number, piece in enumerate([data] if isinstance(data, bytes) else data):
            if number:
                await settled()
            wire.send(piece)
        found: list[Answer] = []
        while len(found) < answers:
            answer = await wire.answer(head_only=head_only)
            if answer is None:
                return Exchange(tuple(found), True)
            found.append(answer)
        if found and found[-1].headers.get("connection", "").lower() == "close":
            assert await wire.end(), "it said that it would close"
            return Exchange(tuple(found), True)
        wire.send(PROBE)
        probe = await wire.answer()
        assert probe is None or probe.json() == {"status": "ok"}, (found, probe)
        return Exchange(tuple(found), probe is None)
    finally:
        wire.leave()


def post(
    body: bytes,
    *headers: bytes,
    target: bytes = b"/v1/completions",
    line: bytes = b"",
    host: bytes = b"host: proxy",
    length: bytes | None = None,
    json_type: bool = True,
) -> bytes:
    """A POST request. `line` replaces the whole request line, `length` the length's header."""
    lines = [line or b"POST " + target + b" HTTP/1.1"]
    if host:
        lines.append(host)
    if json_type:
        lines.append(b"content-type: application/json")
    lines.extend(headers)
    if length is None:
        lines.append(b"content-length: %d" % len(body))
    elif length:
        lines.append(length)
    return b"\r\n".join([*lines, b"", body])
