"""Checks the host names that requests are addressed to, if no key protects the endpoint.

A web page in a browser on this host may point its own name to 127.0.0.1 once it is loaded (DNS
rebinding). The browser then takes the endpoint for the page's own server, and the page may read
the answers. The Host header reveals such a request: browsers write the page's name there.
"""

import ipaddress
from collections.abc import Iterable
from typing import Final

from partitiond.proxy.request.errors import ApiError

ANY: Final = "*"
_SHOWN: Final = 100


class AllowedHosts:
    """Allows IP addresses and `localhost` always, and the names that the operator has listed."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._names = frozenset(name.lower() for name in names)

    def refusal_of(
        self, target_host: bytes | None, headers: Iterable[tuple[bytes, bytes]]
    ) -> ApiError | None:
        """Return why a request is refused, or None.

        Args:
            target_host: the host in the request's target, if it names one: then that counts.
            headers: names in lower case.
        """
        if target_host is not None:
            return self.refusal(target_host)
        for name, value in headers:
            if name == b"host" and value:
                return self.refusal(value)
        return None

    def refusal(self, host: bytes) -> ApiError | None:
        """Return why a request with this Host is refused, or None; the port does not matter."""
        name = _name_in(host)
        if not name or name == "localhost" or name.endswith(".localhost") or is_address(name):
            return None
        return None if name in self._names or ANY in self._names else host_not_allowed(name)


def _name_in(host: bytes) -> str:
    """Return the name in a Host header, without port and without a trailing dot."""
    text = host.decode("latin-1").strip().lower()
    if text.startswith("["):
        inside, _, port = text[1:].partition("]")
        return text if port and not port.startswith(":") else inside
    return (text.partition(":")[0] or text).removesuffix(".")


def is_address(name: str) -> bool:
    """Whether the name is an IP address, which DNS cannot point elsewhere."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def is_loopback(address: str) -> bool:
    """Whether only this host can have connected to the address."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    mapped = getattr(found, "ipv4_mapped", None)
    return (mapped or found).is_loopback


def host_not_allowed(name: str) -> ApiError:
    """403: requests may not be addressed to this name."""
    shown = name if len(name) <= _SHOWN else name[:_SHOWN] + "..."
    return ApiError(
        403,
        f"This endpoint needs no key and so answers at localhost or an IP address only, not at "
        f"'{shown}'. Call it there, or add the name to [proxy] allowed_hosts, or set [proxy] "
        "require_keys.",
        code="host_not_allowed",
    )
