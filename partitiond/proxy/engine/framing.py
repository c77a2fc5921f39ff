"""Parses the HTTP/1.1 answers of engines: heads and chunked bodies. Sans-I/O.

The parser is strict where a lenient one would let two readers see different messages: it rejects
an answer with two lengths, a folded header or a chunk size that is not plain hexadecimal. The
engines are ours, but their bytes are relayed to a connection that a client keeps using.
"""

import dataclasses
import re
from typing import Final

MAX_HEAD_BYTES: Final = 256 * 1024
"""So large because answers of pooling models describe each of their vectors in one header."""
MAX_CHUNK_BYTES: Final = 1 << 30
_MAX_SIZE_LINE: Final = 64
"""Longest line with a chunk size, including its extensions."""
MAX_TRAILER_BYTES: Final = 16 * 1024
"""Limit for all trailers of an answer together. They are dropped; no engine of ours sends any."""

SIZES: Final = {b"%x" % size: size for size in range(1, 4096)}
"""Canonical chunk sizes for the lengths of single events: a look-up replaces the parsing."""

_STATUS: Final = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: [^\r\n]*)?")
_NAME: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE: Final = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")
"""Excludes control characters, because some of these values are relayed."""
_SIZE: Final = re.compile(rb"([0-9a-fA-F]{1,8})[ \t]*(?:;.*)?")


_USUAL: Final = re.compile(
    rb"HTTP/1\.1 200 OK\r\ndate: [\x20-\x7e]{0,40}\r\nserver: uvicorn\r\n"
    rb"(?:content-length: ([0-9]{1,18})\r\n)?content-type: ([\x21-\x7e]+(?: [\x21-\x7e]+)?)"
    rb"(?:\r\nvary: Origin)?(\r\ntransfer-encoding: chunked)?"
)
"""The head as uvicorn, and thus vLLM, writes it: one match parses it. Other heads also parse."""


class FramingError(ValueError):
    """The received bytes are not a well-formed HTTP/1.1 answer."""


@dataclasses.dataclass(slots=True)
class Head:
    """The head of an answer.

    Attributes:
        length: of the body in bytes; None if the body is chunked or ends with the connection.
        keep_alive: the connection may carry another request afterwards.
        exact: the end of the answer is certain; False if it ends with the connection, or if more
            bytes follow.
        metadata: value of that header (pooling models describe raw vectors in it), or empty.
        load: value of `endpoint-load-metrics`, which engines send on request, or empty.
    """

    status: int
    content_type: bytes
    length: int | None
    chunked: bool
    keep_alive: bool
    exact: bool = True
    metadata: bytes = b""
    load: bytes = b""


def parse_head(data: bytes) -> Head:
    """Parse a head, from its first byte up to, but without, the empty line. Raises FramingError."""
    usual = _USUAL.fullmatch(data)
    if usual is not None:
        length, content_type, chunked = usual.groups()
        if (length is None) != (chunked is None):
            return Head(
                200, content_type, None if length is None else int(length), length is None, True
            )
    return _parse_head(data)


def _parse_head(data: bytes) -> Head:
    lines = data.split(b"\r\n")
    start = _STATUS.fullmatch(lines[0])
    if start is None:
        raise FramingError("no status line")
    head = Head(int(start[2]), b"", None, False, start[1] == b"1")
    for line in lines[1:]:
        name, colon, value = line.partition(b":")
        if not colon:
            raise FramingError("a header without a colon")
        name = name.lower()
        if name == b"content-type":
            head.content_type = value.strip()
        elif name == b"content-length":
            value = value.strip()
            if head.length is not None or not value.isdigit() or len(value) > 18:
                raise FramingError("not one content-length")
            head.length = int(value)
        elif name == b"transfer-encoding":
            if head.chunked or value.strip().lower() != b"chunked":
                raise FramingError("a transfer encoding that is not chunked")
            head.chunked = True
        elif name == b"connection":
            tokens = value.lower()
            if b"close" in tokens:
                head.keep_alive = False
            elif b"keep-alive" in tokens:
                head.keep_alive = True
        elif name == b"metadata":
            head.metadata = value.strip()
        elif name == b"endpoint-load-metrics":
            head.load = value.strip()
        elif _NAME.fullmatch(name) is None:
            raise FramingError("a header's name is malformed")
        if _VALUE.fullmatch(value) is None:
            raise FramingError("a header's value is malformed")
    if head.chunked and head.length is not None:
        raise FramingError("both a content-length and a transfer encoding")
    if head.status in {204, 304} or head.status < 200:
        head.length, head.chunked = 0, False
    return head


class ChunkedDecoder:
    """Decodes a chunked body that arrives in pieces of any size.

    Attributes:
        done: the last chunk and its trailers have arrived.
        rest: bytes after the end of the body.
    """

    __slots__ = ("_buffer", "_left", "_trailer_bytes", "_trailers", "done", "rest")

    def __init__(self) -> None:
        self._buffer = b""
        self._left = 0  # bytes of the current chunk, its line end included; 0 between chunks
        self._trailers = False
        self._trailer_bytes = 0  # of complete lines
        self.done = False
        self.rest = b""

    @property
    def at_boundary(self) -> bool:
        """Whether the next byte begins a chunk."""
        return not (self._buffer or self._left or self._trailers or self.done)

    def feed(self, data: bytes) -> bytes:
        """Return the bytes of the body that `data` holds. Raises FramingError."""
        if self._buffer:
            data = self._buffer + data
            self._buffer = b""
        out: list[bytes] = []
        at = 0
        end = len(data)
        while at < end and not self.done:
            if self._left:
                at = self._take_chunk(data, at, out)
                continue
            longest = self._longest_line()
            line_end = data.find(b"\r\n", at, at + longest)
            if line_end < 0:
                if end - at >= longest:
                    raise FramingError(
                        "trailers without an end" if self._trailers else "no chunk size"
                    )
                self._buffer = data[at:]
                break
            at = self._take_line(data[at:line_end], line_end + 2)
        if self.done:
            self.rest = data[at:]
        return out[0] if len(out) == 1 else b"".join(out)

    def _longest_line(self) -> int:
        """Maximum length of the line that begins here, including its line end, in bytes."""
        return MAX_TRAILER_BYTES - self._trailer_bytes if self._trailers else _MAX_SIZE_LINE

    def _take_line(self, line: bytes, after: int) -> int:
        if self._trailers:
            self._take_trailer(line)
            return after
        size = SIZES.get(line)
        if size is None:
            match = _SIZE.fullmatch(line)
            if match is None:
                raise FramingError("a chunk size that is no hexadecimal number")
            size = int(match[1], 16)
            if size > MAX_CHUNK_BYTES:
                raise FramingError("a chunk that is too large")
        if size == 0:
            self._trailers = True
        else:
            self._left = size + 2
        return after

    def _take_trailer(self, line: bytes) -> None:
        if not line:
            self.done = True
            return
        self._trailer_bytes += len(line) + 2
        name, colon, value = line.partition(b":")
        if not colon or _NAME.fullmatch(name) is None or _VALUE.fullmatch(value) is None:
            raise FramingError("a trailer that is no header")

    def _take_chunk(self, data: bytes, at: int, out: list[bytes]) -> int:
        """Take the bytes of the current chunk that have arrived, and check its line end."""
        body = self._left - 2
        here = len(data) - at
        if here >= self._left:
            if data[at + body : at + body + 2] != b"\r\n":
                raise FramingError("a chunk longer than its size")
            if body:
                out.append(data[at : at + body])
            at += self._left
            self._left = 0
            return at
        if here < body:
            out.append(data[at:])
            self._left -= here
            return len(data)
        # The whole chunk has arrived, with none or only the first byte of its line end.
        if body:
            out.append(data[at : at + body])
        self._left = 2
        self._buffer = data[at + body :]
        return len(data)


def frame(data: bytes) -> bytes:
    """Encode the data as one chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data)


LAST_CHUNK: Final = b"0\r\n\r\n"
