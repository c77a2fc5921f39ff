"""Caches parsed request heads.

A client sends the same head with each of its requests, except for the body's length. The result of
parsing and checking a head holds for every head of the same bytes, so each head is parsed once and
later only compared. Nothing is guessed: the bytes before and after the length identify a head, and
only plain decimal digits may stand between them. A head that the parser has not accepted, or that
means anything unusual (an upgrade, another encoding), is never kept.
"""

import re
from typing import Final

from partitiond.proxy.edge.heads import RequestHead
from partitiond.proxy.keys.auth import Caller, KeyRing
from partitiond.proxy.request.errors import ApiError
from partitiond.proxy.request.requests import DataRoute

MAX_KNOWN: Final = 4096
"""Maximum number of heads kept, over all clients; each is about 300 bytes. Chosen, not measured."""
MAX_KNOWN_BYTES: Final = 2048
"""Longer heads are not worth keeping."""
_END: Final = b"\r\n\r\n"
_LENGTH: Final = re.compile(rb"\r\n[Cc]ontent-[Ll]ength: ([0-9]{1,9})\r\n")


class KnownHead:
    """One parsed head."""

    __slots__ = ("_caller", "_ring", "head", "keep_alive", "route")

    def __init__(self, route: DataRoute, head: RequestHead, *, keep_alive: bool) -> None:
        self.route = route
        self.head = head
        self.keep_alive = keep_alive
        self._ring: KeyRing | None = None
        self._caller: Caller | None = None

    def caller(self, ring: KeyRing) -> Caller | ApiError:
        """Identify the sender; memoised unless the keys have changed or one of them may expire."""
        if self._ring is ring and self._caller is not None and not ring.is_stale():
            return self._caller
        caller = ring.identify(*self.head.keys())
        if isinstance(caller, Caller) and not ring.expires:
            self._ring, self._caller = ring, caller
        return caller


class KnownHeads:
    """The known heads of one process; the oldest is evicted first."""

    def __init__(self) -> None:
        self._known: dict[bytes, KnownHead] = {}

    def find(self, data: bytes) -> tuple[KnownHead, bytes] | None:
        """Return head and body if the data is one whole request with a known head, else None."""
        end = data.find(_END)
        length = _LENGTH.search(data, 0, end + 2) if end > 0 else None
        if length is None or end + 4 + int(length[1]) != len(data):
            return None
        start, stop = length.span(1)
        known = self._known.get(data[:start] + data[stop:end])
        return None if known is None else (known, data[end + 4 :])

    def keep(self, data: bytes, known: KnownHead) -> None:
        """Keep the head that the data begins with; the parser has accepted it."""
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
