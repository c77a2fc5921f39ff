"""Reads HTTP/1.1 answers with the standard library alone and few steps per chunk.

The reader handles what completions servers send: a body in chunks, of a stated length, or up to
the end of the connection. It skips chunk extensions, trailers and interim (1xx) answers.
"""

from typing import Final

MAX_HEAD_BYTES: Final = 64 * 1024
"""Far above any head that a server sends: only a peer with another protocol exceeds it."""
MAX_CHUNK_BYTES: Final = 1 << 26
_NO_BODY: Final = frozenset({204, 304})


class HttpError(ValueError):
    """The bytes are not an HTTP/1.1 answer."""


class AnswerReader:
    """Reads one answer from the bytes of a connection.

    Attributes:
        status: 0 until the head was read.
        headers: names in lower case.
        keep_alive: whether the connection can carry another request.
        complete: the answer has ended.
    """

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.keep_alive = True
        self.complete = False
        self._rest = b""
        self._chunked = False
        self._left: int | None = None
        self._in_trailers = False

    @property
    def between_chunks(self) -> bool:
        """Whether the next byte begins a chunk of the body."""
        return self._chunked and not self._rest and not self._in_trailers

    def feed(self, data: bytes) -> list[bytes]:
        """Take bytes and return the bytes of the body among them.

        Raises:
            HttpError: the bytes are not an HTTP/1.1 answer.
        """
        if self._rest:
            data, self._rest = self._rest + data, b""
        if not self.status:
            data = self._head(data)
            if not self.status:
                return []
        if self._chunked:
            return self._chunks(data)
        return self._plain(data)

    def end_of_stream(self) -> bool:
        """Note that the connection ended; return whether the answer is complete now."""
        if self.status and not self._chunked and self._left is None:
            self.complete, self.keep_alive = True, False
        return self.complete

    def _chunks(self, data: bytes) -> list[bytes]:
        pieces: list[bytes] = []
        position, size = 0, len(data)
        while position < size and not self.complete:
            line_end = data.find(b"\r\n", position)
            if line_end < 0:
                break
            if self._in_trailers:
                self.complete = line_end == position
                position = line_end + 2
                continue
            start = line_end + 2
            try:
                end = start + int(data[position:line_end], 16)
            except ValueError:
                end = start + _extended_size(data[position:line_end])
            if end == start:
                self._in_trailers = True
                position = start
                continue
            if end + 2 > size:
                if not start < end <= start + MAX_CHUNK_BYTES:
                    raise HttpError(f"a chunk of {end - start} bytes")
                break
            if end < start:
                raise HttpError(f"a chunk of {end - start} bytes")
            pieces.append(data[start:end])
            position = end + 2
        # An incomplete chunk waits for its rest: an event is small, and half an event is useless.
        self._rest = data[position:]
        return pieces

    def _plain(self, data: bytes) -> list[bytes]:
        if self._left is None:
            return [data] if data else []
        taken = data[: self._left]
        self._left -= len(taken)
        self.complete = self._left == 0
        return [taken] if taken else []

    def _head(self, data: bytes) -> bytes:
        """Read the head once it is complete; return the bytes that follow it."""
        head, found, rest = data.partition(b"\r\n\r\n")
        if not found:
            if len(data) > MAX_HEAD_BYTES or not b"HTTP/1.".startswith(data[:7]):
                raise HttpError(f"it begins with {data[:40]!r}")
            self._rest = data
            return b""
        status_line, *lines = head.split(b"\r\n")
        version, status = _status(status_line)
        if 100 <= status < 200:
            return self._head(rest) if rest else b""
        self.headers = dict(_header(line) for line in lines)
        self._frame(version, status)
        self.status = status
        return rest

    def _frame(self, version: bytes, status: int) -> None:
        connection = self.headers.get(b"connection", b"").lower()
        self.keep_alive = b"close" not in connection and (
            version != b"HTTP/1.0" or b"keep-alive" in connection
        )
        self._chunked = self.headers.get(b"transfer-encoding", b"").lower().endswith(b"chunked")
        length = self.headers.get(b"content-length")
        if status in _NO_BODY:
            self._left = 0
        elif length is not None and not self._chunked:
            if not length.isdigit():
                raise HttpError(f"Content-Length is {length!r}")
            self._left = int(length)
        if self._left == 0:
            self.complete = True


def _status(line: bytes) -> tuple[bytes, int]:
    parts = line.split(None, 2)
    if len(parts) < 2 or not parts[0].startswith(b"HTTP/1.") or not parts[1].isdigit():
        raise HttpError(f"it begins with {line[:40]!r}")
    return parts[0], int(parts[1])


def _header(line: bytes) -> tuple[bytes, bytes]:
    name, found, value = line.partition(b":")
    if not found:
        raise HttpError(f"a header line is {line[:40]!r}")
    return name.strip().lower(), value.strip()


def _extended_size(line: bytes) -> int:
    """The size in a line with a chunk extension."""
    try:
        return int(line.partition(b";")[0], 16)
    except ValueError:
        raise HttpError(f"a chunk's size is {line[:40]!r}") from None
