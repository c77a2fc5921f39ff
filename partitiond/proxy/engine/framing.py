"""Reads the HTTP/1.1 answers of one connection to an engine. Sans-I/O.

`httptools` reads strictly where a lenient reader would let two readers see different messages: an
answer with two lengths, a folded header or a chunk size that is not plain hexadecimal is rejected.
The engines are ours, but their bytes are relayed to a connection that a client keeps using.
"""

import dataclasses
from typing import Any, Final

import httptools

MAX_HEAD_BYTES: Final = 256 * 1024
"""So large because answers of pooling models describe each of their vectors in one header."""
MAX_BODILESS_BYTES: Final = 16 * 1024
"""Limit for what comes between two bytes of a body or after the last one: lines with sizes and
trailers, which are dropped (but one, `HOP`). No engine of ours sends trailers."""
HOP: Final = b"x-partitiond-hop"
"""Header and trailer in which the proxy of another host tells more than HTTP has a place for."""
WORKS: Final = 102
"""Status by which the proxy of another host says that a request waits, or is worked on."""
LAST_CHUNK: Final = b"0\r\n\r\n"

SIZES: Final = {b"%x" % size: size for size in range(1, 4096)}
"""Canonical chunk sizes for the lengths of single events: a look-up replaces the parsing."""


class FramingError(ValueError):
    """The received bytes are not a well-formed HTTP/1.1 answer."""


@dataclasses.dataclass(init=False, slots=True)
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
    exact: bool
    metadata: bytes
    hop: bytes

    def __init__(
        self,
        status: int = 0,
        content_type: bytes = b"",
        length: int | None = None,
        *,
        chunked: bool = False,
        keep_alive: bool = False,
        metadata: bytes = b"",
        hop: bytes = b"",
    ) -> None:
        self.status = status
        self.content_type = content_type
        self.length = length
        self.chunked = chunked
        self.keep_alive = keep_alive
        self.exact = True
        self.metadata = metadata
        self.hop = hop


class _Found:
    """What the parser found in the bytes that it was given.

    Attributes:
        parser: while it is given bytes; else None, lest both wait for the garbage collector.
        head: the last one, complete or not; None between two answers.
        heads: complete ones that were not taken yet: those of notes (1xx) and the answer's.
        hop: value of the trailer `HOP`, or empty.
    """

    def __init__(self) -> None:
        self.parser: Any = None
        self.head: Head | None = None
        self.heads: list[Head] = []
        self.parts: list[bytes] = []
        self.hop = b""
        self.in_head = True
        self.in_chunk = False
        self.is_over = False
        self.is_another = False

    def on_message_begin(self) -> None:
        if self.is_over:
            self.is_another = True  # whatever follows is taken for another answer
        else:
            self.head, self.in_head = Head(), True

    def on_header(self, name: bytes, value: bytes) -> None:
        head, name = self.head, name.lower()
        if head is None or self.is_over:
            return
        if not self.in_head:
            self.hop = value if name == HOP else self.hop
        elif name == HOP:
            head.hop = value
        elif name == b"content-type":
            head.content_type = value
        elif name == b"content-length":
            head.length = int(value)
        elif name == b"transfer-encoding":
            if head.chunked or value.strip().lower() != b"chunked":
                raise FramingError("a transfer encoding that is not chunked")
            head.chunked = True
        elif name == b"metadata":
            head.metadata = value

    def on_headers_complete(self) -> None:
        head = self.head
        if head is None or self.is_over:
            return
        head.status = self.parser.get_status_code()
        if head.status < 100:
            raise FramingError("a status that is none")
        head.keep_alive = self.parser.should_keep_alive()
        self.in_head = False
        if head.status in {204, 304} or head.status < 200:
            head.length, head.chunked = 0, False
        self.heads.append(head)

    def on_chunk_header(self) -> None:
        self.in_chunk = True

    def on_body(self, body: bytes) -> None:
        if not self.is_over:
            self.parts.append(body)

    def on_chunk_complete(self) -> None:
        self.in_chunk = False

    def on_message_complete(self) -> None:
        if self.head is not None and self.head.status >= 200:
            self.is_over = True


class AnswerParser:
    """Reads answers that arrive in pieces of any size, one after each call of `begin`.

    Attributes:
        at_boundary: it is certain that the next byte begins a chunk.
        surplus: bytes follow the end of the answer.
    """

    __slots__ = ("_bodiless_bytes", "_found", "_parser", "at_boundary", "surplus")

    def __init__(self) -> None:
        self._found = _Found()
        self._parser: Any = httptools.HttpResponseParser(self._found)
        self._bodiless_bytes = 0
        self.at_boundary = False
        self.surplus = False

    def begin(self) -> None:
        """Expect the answer to another request."""
        self._found.is_over = self.at_boundary = False
        self._found.hop = b""
        self._bodiless_bytes = 0

    @property
    def is_over(self) -> bool:
        """Whether the answer's last byte has arrived; never, if it ends with the connection."""
        return self._found.is_over

    @property
    def hop(self) -> bytes:
        """Value of the trailer `HOP`, or empty."""
        return self._found.hop

    def feed(self, data: bytes) -> list[Head]:
        """Read further bytes; return the heads that are complete now. Raises FramingError."""
        found = self._found
        found.parser = self._parser
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as error:
            raise FramingError("it wants another protocol") from error
        except httptools.HttpParserError as error:
            if not found.is_over:
                raise FramingError(str(error.__context__ or error)) from error
            self.surplus = True
        finally:
            found.parser = None
        self.surplus = self.surplus or found.is_another
        # After a chunk, the parser says nothing of the beginning of the next one's size.
        between = not (found.in_head or found.in_chunk or found.is_over)
        self.at_boundary = between and data.endswith(b"\r\n")
        self._bodiless_bytes = 0 if found.parts else self._bodiless_bytes + len(data)
        most = MAX_HEAD_BYTES if found.in_head else MAX_BODILESS_BYTES
        if not found.is_over and not found.heads and self._bodiless_bytes > most:
            raise FramingError("a head, a chunk's size or trailers without an end")
        heads, found.heads = found.heads, []
        if heads:
            self._bodiless_bytes = 0
        return heads

    def take_body(self) -> bytes:
        """Return the bytes of the body that came since the last call."""
        found = self._found
        parts, found.parts = found.parts, []
        return parts[0] if len(parts) == 1 else b"".join(parts)
