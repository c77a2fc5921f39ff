"""Serves requests that ask to upgrade (to HTTP/2, to WebSocket) as if they had not asked.

The parser takes the head of such a request for the end of HTTP: it calls the request complete and
stops, even if a body follows. Java's client asks to upgrade with every request by default. If the
body were dropped, the request would fail; if the parser read on, it would take the body, which may
contain anything, for another request. So a second parser, told only its length, reads the body.
"""

from collections.abc import Iterable
from typing import Final, Protocol

import httptools

_FRAMING: Final = frozenset({b"content-length", b"transfer-encoding"})


class RequestCallbacks(Protocol):
    """The callbacks of a parser."""

    def on_message_begin(self) -> None:
        """Take the beginning of a request."""

    def on_url(self, url: bytes) -> None:
        """Take a piece of the target."""

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header."""

    def on_headers_complete(self) -> None:
        """Take the end of the head."""

    def on_body(self, body: bytes) -> None:
        """Take a piece of the body."""

    def on_message_complete(self) -> None:
        """Take the end of the request."""


class _FromTheBody:
    """Forwards all callbacks after the first head."""

    def __init__(self, callbacks: RequestCallbacks) -> None:
        self._callbacks = callbacks
        self._at_body = False
        self.on_body = callbacks.on_body
        self.on_message_complete = callbacks.on_message_complete

    def on_message_begin(self) -> None:
        if self._at_body:
            self._callbacks.on_message_begin()

    def on_url(self, url: bytes) -> None:
        if self._at_body:
            self._callbacks.on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._at_body:
            self._callbacks.on_header(name, value)

    def on_headers_complete(self) -> None:
        if self._at_body:
            self._callbacks.on_headers_complete()
        self._at_body = True


def body_framing(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return the header with the body's length (a checked head has at most one), or empty."""
    for name, value in headers:
        if name in _FRAMING:
            return name + b": " + value + b"\r\n"
    return b""


def parser_after_upgrade(
    callbacks: RequestCallbacks, framing: bytes
) -> httptools.HttpRequestParser:
    """Return a parser for the body after a head that asked to upgrade, and further requests."""
    if not framing:
        return httptools.HttpRequestParser(callbacks)
    parser = httptools.HttpRequestParser(_FromTheBody(callbacks))
    parser.feed_data(b"POST / HTTP/1.1\r\nhost: -\r\n" + framing + b"\r\n")
    return parser
