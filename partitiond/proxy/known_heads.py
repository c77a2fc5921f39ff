"""Heads that were read before.

A client sends the same head with each of its requests, but for the body's length. What the parser
made of one, and what was checked of it, holds for every head of the same bytes: so a head is taken
apart once, and later only compared. Nothing is guessed: where the length stands is remembered by
the bytes before and after it, and only plain decimal digits may stand between them. A head that
the parser has not accepted, or that means anything unusual (an upgrade, another encoding), is
never kept.
"""

import re
from typing import Final

from partitiond.proxy.auth import Caller, KeyRing
from partitiond.proxy.errors import ApiError
from partitiond.proxy.heads import RequestHead
from partitiond.proxy.routes import DataRoute

MAX_KNOWN: Final = 4096
"""Heads kept, over all clients; each is about 300 bytes."""
MAX_KNOWN_BYTES: Final = 2048
"""Longer ones are not worth keeping."""
_END: Final = b"\r\n\r\n"
_LENGTH: Final = re.compile(rb"\r\n[Cc]ontent-[Ll]ength: ([0-9]{1,9})\r\n")


class KnownHead:
    """One head, taken apart."""

    __slots__ = ("_caller", "_ring", "head", "keep_alive", "route")

    def __init__(self, route: DataRoute, head: RequestHead, *, keep_alive: bool) -> None:
        self.route = route
        self.head = head
        self.keep_alive = keep_alive
        self._ring: KeyRing | None = None
        self._caller: Caller | None = None

    def caller(self, ring: KeyRing) -> Caller | ApiError:
        """Who sends it, asked again whenever the keys have changed or one of them may expire."""
        if self._ring is ring and self._caller is not None:
            return self._caller
        caller = ring.identify(self.head.key())
        if isinstance(caller, Caller) and not ring.expires:
            self._ring, self._caller = ring, caller
        return caller


class KnownHeads:
    """The heads of one process, the oldest forgotten first."""

    def __init__(self) -> None:
        self._known: dict[bytes, KnownHead] = {}

    def find(self, data: bytes) -> tuple[KnownHead, bytes] | None:
        """The head and body, where the data is one whole request with a known head."""
        end = data.find(_END)
        length = _LENGTH.search(data, 0, end + 2) if end > 0 else None
        if length is None or end + 4 + int(length[1]) != len(data):
            return None
        start, stop = length.span(1)
        known = self._known.get(data[:start] + data[stop:end])
        return None if known is None else (known, data[end + 4 :])

    def keep(self, data: bytes, known: KnownHead) -> None:
        """Remember the head that the data begins with, which the parser has accepted."""
        end = data.find(_END)
        if not 0 < end <= MAX_KNOWN_BYTES:
            return
        lengths = list(_LENGTH.finditer(data, 0, end + 2))
        if len(lengths) != 1:
            return
        start, stop = lengths[0].span(1)
        if len(self._known) >= MAX_KNOWN:
            self._known.pop(next(iter(self._known)))
        self._known[data[:start] + data[stop:end]] = known
