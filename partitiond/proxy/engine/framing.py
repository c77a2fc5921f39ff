"""Parses the HTTP/1.1 answers of engines: heads and chunked bodies. Sans-I/O.

Both are read strictly where a lenient reader would let two readers see different messages: an
answer with two lengths, a folded header or a chunk size that is not plain hexadecimal is rejected.
The engines are ours, but their bytes are relayed to a connection that a client keeps using.
"""

import dataclasses
import re
from typing import Any, Final

import httptools

MAX_HEAD_BYTES: Final = 256 * 1024
"""So large because answers of pooling models describe each of their vectors in one header."""
MAX_BODILESS_BYTES: Final = 16 * 1024
"""Limit for what comes between two bytes of a body or after the last one: lines with sizes and
trailers, which are dropped (but one, `HOP`). No engine of ours sends trailers."""
HOP: Final = b"x-partitiond-hop"
"""Header and trailer in which the proxy of another host tells more than HTTP has a place for."""
_CHUNKED_HEAD: Final = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"

SIZES: Final = {b"%x" % size: size for size in range(1, 4096)}
"""Canonical chunk sizes for the lengths of single events: a look-up replaces the parsing."""

_STATUS: Final = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: [^\r\n]*)?")
_NAME: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE: Final = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")
"""Excludes control characters, because some of these values are relayed."""


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
        hop: value of `HOP`, also as a trailer; or empty.
    """

    status: int
    content_type: bytes
    length: int | None
    chunked: bool
    keep_alive: bool
    exact: bool = True
    metadata: bytes = b""
    hop: bytes = b""


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
        elif name == HOP:
            head.hop = value.strip()
        elif _NAME.fullmatch(name) is None:
            raise FramingError("a header's name is malformed")
        if _VALUE.fullmatch(value) is None:
            raise FramingError("a header's value is malformed")
    if head.chunked and head.length is not None:
        raise FramingError("both a content-length and a transfer encoding")
    if head.status in {204, 304} or head.status < 200:
        head.length, head.chunked = 0, False
    return head


class _Found:
    """What the parser found in the bytes that it was given; it holds no parser, so is no cycle."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.in_chunk = False
        self.is_over = False
        self.is_another = False
        self.hop = b""

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == HOP and not self.is_over:
            self.hop = value

    def on_message_begin(self) -> None:
        self.is_another = self.is_over  # the parser takes whatever follows for another answer

    def on_chunk_header(self) -> None:
        self.in_chunk = True

    def on_body(self, body: bytes) -> None:
        if not self.is_over:
            self.parts.append(body)

    def on_chunk_complete(self) -> None:
        self.in_chunk = False

    def on_message_complete(self) -> None:
        self.is_over = True


class ChunkedDecoder:
    """Decodes a chunked body that arrives in pieces of any size; trailers but `HOP` are dropped.

    Attributes:
        at_boundary: it is certain that the next byte begins a chunk.
        surplus: bytes follow the end of the body.
    """

    __slots__ = ("_bodiless_bytes", "_found", "_parser", "at_boundary", "surplus")

    def __init__(self) -> None:
        self._found = _Found()
        self._parser: Any = httptools.HttpResponseParser(self._found)
        self._parser.feed_data(_CHUNKED_HEAD)
        self._bodiless_bytes = 0
        self.at_boundary = True
        self.surplus = False

    @property
    def done(self) -> bool:
        """Whether the last chunk and its trailers have arrived."""
        return self._found.is_over

    @property
    def hop(self) -> bytes:
        """Value of the trailer `HOP`, or empty."""
        return self._found.hop

    def feed(self, data: bytes) -> bytes:
        """Return the bytes of the body that `data` holds. Raises FramingError."""
        found = self._found
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if not found.is_over:
                raise FramingError("a body that is not chunked properly") from error
        self.surplus = found.is_another
        # After a chunk, the parser says nothing of the beginning of the next one's size.
        between = not (found.in_chunk or found.is_over)
        self.at_boundary = between and data.endswith(b"\r\n")
        parts, found.parts = found.parts, []
        self._bodiless_bytes = 0 if parts else self._bodiless_bytes + len(data)
        if self._bodiless_bytes > MAX_BODILESS_BYTES and not found.is_over:
            raise FramingError("trailers or a chunk's size without an end")
        return parts[0] if len(parts) == 1 else b"".join(parts)


LAST_CHUNK: Final = b"0\r\n\r\n"
