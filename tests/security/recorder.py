"""Stands in for an engine that reads as strictly as HTTP allows, and keeps every byte.

A proxy that lets a smuggled request through is caught here: everything except exactly one
well-formed request with the headers that an engine needs is a violation.
"""

import contextlib
import dataclasses
import json
import re
import select
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.proxy.scripted import completion

ALLOWED_HEADERS = frozenset(
    {
        "host", "content-type", "content-length", "connection", "accept", "x-request-id",
        "traceparent", "tracestate",
    }
)  # fmt: skip
"""What may go on to an engine: nothing that names the client, its key or another hop."""
PATHS = re.compile(
    rb"/(v1/(completions|chat/completions|chat/completions/batch|responses|messages|messages/count_tokens|embeddings"
    rb"|score|rerank)|v2/rerank|score|rerank|pooling|classify|tokenize|detokenize)"
)
HEADER = re.compile(rb"([a-z0-9-]+): ([\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?)")

COMPLETION = completion()


@dataclasses.dataclass(frozen=True)
class Forwarded:
    """One request as it arrived."""

    path: str
    headers: dict[str, str]
    body: bytes


def whole_answer(body: bytes, status: str = "200 OK", extra: bytes = b"") -> bytes:
    """A whole JSON answer."""
    head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
    return head.encode() + extra + b"\r\n" + body


_CONTENT = (
    b'data: {"choices":[{"index":0,"text":"hello","delta":{"content":"hello"},'
    b'"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
)
STREAMS = {
    "/v1/responses": b'event: response.output_text.delta\ndata: {"delta":"hello"}\n\n'
    b'event: response.completed\ndata: {"type":"response.completed"}\n\n',
    "/v1/messages": b'event: content_block_delta\ndata: {"delta":{"text":"hello"}}\n\n'
    b'event: message_stop\ndata: {"type":"message_stop"}\n\n',
}
"""Short proper streams; those of completions and chats are all alike."""


def answer_properly(request: Forwarded) -> bytes:
    """Always the same, as a whole or as a stream."""
    if not json.loads(request.body).get("stream"):
        return whole_answer(json.dumps(COMPLETION).encode())
    body = STREAMS.get(request.path, _CONTENT)
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: %d\r\n\r\n"
    return head % len(body) + body


Answering = Callable[[Forwarded], bytes]


class Recorder:
    """Listens on a Unix socket in a thread.

    Attributes:
        seen: well-formed requests.
        violations: what was wrong with the others.
        raw: every byte that came in, over all connections.
        answering: what to send back; a test may change it. It closes after bytes that begin a
            message and do not end it, because nobody can tell where the next begins.
        closing: close after each answer.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seen: list[Forwarded] = []
        self.violations: list[str] = []
        self.raw = bytearray()
        self.answering: Answering = answer_properly
        self.closing = False
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._working: set[socket.socket] = set()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        self._listener.listen(128)
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def forget(self) -> None:
        """Begin anew: nothing was seen."""
        with self._lock:
            self.seen.clear()
            self.violations.clear()
            self.raw.clear()
            self.answering = answer_properly
            self.closing = False

    @property
    def connections(self) -> int:
        """Connections that are open now."""
        with self._lock:
            return len(self._open)

    def idle(self) -> bool:
        """Whether all that was ever sent to it is read and recorded."""
        with self._lock:
            waiting, _, _ = select.select([self._listener, *self._open], [], [], 0)
            return not waiting and not self._working

    def stop(self) -> None:
        """Close everything."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(60)
        self._listener.close()
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            select.select([self._listener], [], [])
            with self._lock:
                try:
                    connection, _ = self._listener.accept()
                except OSError:
                    return
                self._open.add(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        data = bytearray()
        try:
            while True:
                request = self._next(connection, data)
                if request is None:
                    return
                with self._lock:
                    self.seen.append(request)
                    answering, closing = self.answering, self.closing
                connection.sendall(answering(request))
                if closing:
                    return
        except (OSError, ValueError) as error:
            if isinstance(error, ValueError):
                self._violation(str(error))
        finally:
            with self._lock:
                self._open.discard(connection)
                self._working.discard(connection)
                connection.close()

    def _violation(self, text: str) -> None:
        with self._lock:
            self.violations.append(text)

    def _receive(self, connection: socket.socket, data: bytearray) -> bool:
        with self._lock:
            self._working.discard(connection)
        select.select([connection], [], [])
        with self._lock:
            piece = connection.recv(65536)
            self._working.add(connection)
            self.raw += piece
        data += piece
        return bool(piece)

    def _next(self, connection: socket.socket, data: bytearray) -> Forwarded | None:
        """The next request, None at a clean end. Raises ValueError for what is not one."""
        while (end := data.find(b"\r\n\r\n")) < 0:
            if not self._receive(connection, data):
                if data:
                    raise ValueError(f"cut head: {bytes(data[:200])!r}")
                return None
        path, headers = _read_head(bytes(data[:end]))
        length = int(headers["content-length"])
        del data[: end + 4]
        while len(data) < length:
            if not self._receive(connection, data):
                raise ValueError(f"cut body: {len(data)} of {length} bytes")
        body = bytes(data[:length])
        del data[:length]
        # The proxy never pipelines: bytes here would be a second request inside the first.
        if data:
            raise ValueError(f"bytes after the body: {bytes(data[:200])!r}")
        if not isinstance(json.loads(body), dict):
            raise ValueError("the body is no JSON object")
        return Forwarded(path, headers, body)


def _read_head(head: bytes) -> tuple[str, dict[str, str]]:
    lines = head.split(b"\r\n")
    method, _, rest = lines[0].partition(b" ")
    target, _, version = rest.partition(b" ")
    if method != b"POST" or version != b"HTTP/1.1" or not PATHS.fullmatch(target):
        raise ValueError(f"request line {lines[0]!r}")
    headers: dict[str, str] = {}
    for line in lines[1:]:
        match = HEADER.fullmatch(line)
        if match is None:
            raise ValueError(f"header {line!r}")
        name = match[1].decode()
        if name in headers or name not in ALLOWED_HEADERS:
            raise ValueError(f"header that must not be there (twice): {line!r}")
        headers[name] = match[2].decode()
    if not headers.get("content-length", "").isdigit():
        raise ValueError(f"no length in {head!r}")
    return target.decode(), headers


@contextlib.contextmanager
def recording(path: Path) -> Iterator[Recorder]:
    """A recorder on this socket."""
    recorder = Recorder(path)
    try:
        yield recorder
    finally:
        recorder.stop()
