"""Decides which web origins may call.

None may by default: without `cors_origins` no page of another origin can read an answer, and the
JSON content type that requests need makes browsers ask first.
"""

import re
from collections.abc import Sequence
from typing import Final

CORS_METHODS: Final = b"GET, POST, OPTIONS"
CORS_MAX_AGE_SECONDS: Final = 600
_HEADERS: Final = re.compile(rb"[A-Za-z0-9!#$%&'*+.^_`|~, -]{0,1024}")
_EXPOSED: Final = (
    b"x-request-id, retry-after, x-partitiond-replica, x-partitiond-attempts, "
    b"x-partitiond-queue-ms, x-partitiond-first-byte-ms"
)


class Cors:
    """Cross-origin access for the listed origins; `*` means all origins, without credentials."""

    def __init__(self, origins: Sequence[str]) -> None:
        self._any = "*" in origins
        self._origins = frozenset(origin.encode() for origin in origins)

    def __bool__(self) -> bool:
        return self._any or bool(self._origins)

    def allows(self, origin: bytes) -> bool:
        """Whether pages of this origin may read answers."""
        return bool(origin) and (self._any or origin in self._origins)

    def headers(self, origin: bytes) -> list[tuple[bytes, bytes]]:
        """Return the headers of an answer to a request from this origin.

        Every answer has `Vary` if only some origins are allowed: a cache must not give one origin
        the answer for another.
        """
        if not self:
            return []
        if self._any:
            allowed = [(b"access-control-allow-origin", b"*")] if origin else []
        else:
            allowed = [(b"vary", b"Origin")]
            if self.allows(origin):
                allowed.append((b"access-control-allow-origin", origin))
        if self.allows(origin):
            allowed.append((b"access-control-expose-headers", _EXPOSED))
        return allowed

    def lines(self, origin: bytes) -> bytes:
        """Return the same headers as lines of a head."""
        return b"".join(b"%b: %b\r\n" % header for header in self.headers(origin))

    def preflight(self, origin: bytes, asked_headers: bytes) -> list[tuple[bytes, bytes]] | None:
        """Return the headers of the answer to a preflight request, or None if it is refused."""
        if not self.allows(origin) or not _HEADERS.fullmatch(asked_headers):
            return None
        allowed = asked_headers or b"authorization, content-type"
        return [
            *self.headers(origin),
            (b"access-control-allow-methods", CORS_METHODS),
            (b"access-control-allow-headers", allowed),
            (b"access-control-max-age", str(CORS_MAX_AGE_SECONDS).encode()),
        ]


def plain_address(address: str) -> str:
    """Return the plain IPv4 address of an IPv4 client on an IPv6 listener."""
    mapped = address.startswith("::ffff:") and "." in address
    return address.removeprefix("::ffff:") if mapped else address
