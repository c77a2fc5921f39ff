"""Decides which web origins may call, and finds the addresses of clients behind reverse proxies.

Both are off by default: without `cors_origins` no page of another origin can read an answer (and
the JSON content type that requests need makes browsers ask first), and without `trusted_proxies`
nothing that a client writes into `X-Forwarded-For` is believed.
"""

import functools
import ipaddress
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
MAX_HOPS: Final = 16
"""Maximum number of addresses of `X-Forwarded-For` that are read, from the last one on."""


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


class TrustedProxies:
    """The reverse proxies whose statement of the client's address is believed."""

    def __init__(self, networks: Sequence[str]) -> None:
        self._networks = [ipaddress.ip_network(network, strict=False) for network in networks]

    def __bool__(self) -> bool:
        return bool(self._networks)

    def client_address(self, peer: str, forwarded_for: bytes) -> str:
        """Return the address of the client that sent a request.

        Hops are read from the right, as far as they are trusted: entries further left were written
        by an untrusted party and may be anything.

        Args:
            peer: address of the other end of the connection.
            forwarded_for: `X-Forwarded-For`, or empty.
        """
        if not self._trusts(peer) or not forwarded_for:
            return peer
        found = peer
        for hop in reversed(forwarded_for.decode("latin-1").split(",")[-MAX_HOPS:]):
            address = _address(hop)
            if address is None:
                return found
            found = str(address)
            if not self._trusts(found):
                return found
        return found

    def _trusts(self, address: str) -> bool:
        found = _address(address)
        if found is None:
            return False
        return any(found in network for network in self._networks)


def plain_address(address: str) -> str:
    """Return the plain IPv4 address of an IPv4 client on an IPv6 listener."""
    mapped = address.startswith("::ffff:") and "." in address
    return address.removeprefix("::ffff:") if mapped else address


@functools.lru_cache(maxsize=4096)
def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Parse an address as proxies write it: plain, with a port, or in brackets."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    if "%" in text:  # a zone can be any text, and means nothing on another host
        return None
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(found, "ipv4_mapped", None) or found
