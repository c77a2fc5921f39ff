"""Requests that ask to upgrade (to HTTP/2, to WebSocket) and are served as if they had not.

The parser takes the head of such a request for the end of HTTP: it calls it complete and stops,
body or not. Java's client asks so with every request by default. If the body were dropped, the
request would fail; if it were read on, it would be taken for a request of its own, with whatever
its bytes say: so a second parser goes on at the body, told of nothing but its length.
"""

from collections.abc import Iterable
from typing import Final, Protocol

import httptools

_FRAMING: Final = frozenset({b"content-length", b"transfer-encoding"})


class RequestCallbacks(Protocol):
    """What a parser calls."""

    def on_message_begin(self) -> None:
        """A request begins."""

    def on_url(self, url: bytes) -> None:
        """A piece of the target."""

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header."""

    def on_headers_complete(self) -> None:
        """The head is complete."""

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""

    def on_message_complete(self) -> None:
        """The request is complete."""


class _FromTheBody:
    """Passes on what comes after the first head."""

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
    """The header that says how long the body is (a checked head has one at most), or nothing."""
    for name, value in headers:
        if name in _FRAMING:
            return name + b": " + value + b"\r\n"
    return b""


def parser_after_upgrade(
    callbacks: RequestCallbacks, framing: bytes
) -> httptools.HttpRequestParser:
    """A parser for what follows a head that asked to upgrade: its body, then further requests."""
    if not framing:
        return httptools.HttpRequestParser(callbacks)
    parser = httptools.HttpRequestParser(_FromTheBody(callbacks))
    parser.feed_data(b"POST / HTTP/1.1\r\nhost: -\r\n" + framing + b"\r\n")
    return parser
