"""Sends raw bytes over sockets as a client, and reads answers strictly."""

import contextlib
import dataclasses
import json
import re
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.machine import wait_for

SILENT_SECONDS = 60.0
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


class Wire:
    """One connection."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), SILENT_SECONDS)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.closed = False
        self._data = bytearray()

    def send(self, data: bytes) -> None:
        """Send what can be sent; a proxy that closes in between has said what it thinks of it."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.socket.sendall(data)

    def answer(self, *, head_only: bool = False) -> Answer | None:
        """The next answer, informational ones passed over; None when the proxy closed."""
        while (end := self._data.find(b"\r\n\r\n")) < 0:
            if not self._receive():
                assert not self._data, f"cut answer: {bytes(self._data[:300])!r}"
                return None
        lines = bytes(self._data[:end]).split(b"\r\n")
        del self._data[: end + 4]
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
            return self.answer(head_only=head_only)
        body = b"" if head_only else self._body(headers)
        return Answer(status, headers, body)

    def end(self) -> bool:
        """Wait for the proxy to close; False when it sends more instead."""
        return not self._data and not self._receive()

    def is_read(self) -> bool:
        """Whether the proxy has taken all from the kernel that was sent; also if it has closed."""
        try:
            (here, ours), (_, there) = self.socket.getsockname(), self.socket.getpeername()
        except OSError:  # reset
            return True
        ip = socket.inet_aton(here)[::-1].hex().upper()
        mark = f" {ip}:{there:04X} {ip}:{ours:04X} "
        for line in Path("/proc/net/tcp").read_text().splitlines():
            if mark in line:
                return line.split()[4].endswith(":00000000")
        return True

    def close(self) -> None:
        """Leave."""
        self.socket.close()

    def _body(self, headers: dict[str, str]) -> bytes:
        assert ("content-length" in headers) != ("transfer-encoding" in headers), headers
        if "content-length" in headers:
            return self._take(int(headers["content-length"]))
        parts = bytearray()
        while size := int(self._line(), 16):
            parts += self._take(size)
            assert self._take(2) == b"\r\n"
        assert self._take(2) == b"\r\n"
        return bytes(parts)

    def _line(self) -> bytes:
        while (end := self._data.find(b"\r\n")) < 0:
            assert self._receive(), "cut chunk size"
        return self._take(end + 2)[:-2]

    def _take(self, count: int) -> bytes:
        while len(self._data) < count:
            assert self._receive(), "cut body"
        taken = bytes(self._data[:count])
        del self._data[:count]
        return taken

    def _receive(self) -> bool:
        try:
            piece = self.socket.recv(65536)
        except ConnectionResetError:
            piece = b""
        self._data += piece
        self.closed = self.closed or not piece
        return bool(piece)


@contextlib.contextmanager
def connected(port: int) -> Iterator[Wire]:
    """A connection for the length of a block."""
    wire = Wire(port)
    try:
        yield wire
    finally:
        wire.close()


def exchange(
    port: int,
    data: bytes | Sequence[bytes],
    answers: int,
    *,
    head_only: bool = False,
) -> Exchange:
    """Send bytes, read so many answers, and find out whether the connection is still good.

    Pieces are sent one by one, each once the proxy has read the one before.

    It is when a probe sent then gets its own answer, and that answer alone: bytes of the attack
    that still lie in the proxy would be read as another request.
    """
    with connected(port) as wire:
        for number, piece in enumerate([data] if isinstance(data, bytes) else data):
            if number:
                wait_for("the piece to be read", wire.is_read, pause=0.0)
            wire.send(piece)
        found: list[Answer] = []
        while len(found) < answers:
            answer = wire.answer(head_only=head_only)
            if answer is None:
                return Exchange(tuple(found), True)
            found.append(answer)
        if found and found[-1].headers.get("connection", "").lower() == "close":
            assert wire.end(), "it said that it would close"
            return Exchange(tuple(found), True)
        wire.send(PROBE)
        probe = wire.answer()
        if probe is None:
            return Exchange(tuple(found), True)
        assert probe.json() == {"status": "ok"}, (found, probe)
        return Exchange(tuple(found), False)


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
