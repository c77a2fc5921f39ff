"""Which names requests may be addressed to, where no key protects the endpoint.

A page in a browser on this host may give its own name the address 127.0.0.1 once it is loaded (DNS
rebinding). For the browser the endpoint is then the page's own server, and the page may read what
it answers. What gives it away is the Host header: browsers write the page's name there.
"""

import ipaddress
from collections.abc import Iterable
from typing import Final

from partitiond.proxy.errors import ApiError

ANY: Final = "*"
_SHOWN: Final = 100


class AllowedHosts:
    """Addresses and `localhost` always, and the names that the operator has listed."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._names = frozenset(name.lower() for name in names)

    def refusal_of(self, headers: Iterable[tuple[bytes, bytes]]) -> ApiError | None:
        """Why a request with these headers is refused, or None; names in lower case."""
        for name, value in headers:
            if name == b"host" and value:
                return self.refusal(value)
        return None

    def refusal(self, host: bytes) -> ApiError | None:
        """Why a request with this Host is refused, or None; its port does not matter."""
        name = _name_in(host)
        if not name or name == "localhost" or name.endswith(".localhost") or is_address(name):
            return None
        return None if name in self._names or ANY in self._names else host_not_allowed(name)


def _name_in(host: bytes) -> str:
    """Without the port, and without the last dot that a full name may have."""
    text = host.decode("latin-1").strip().lower()
    if text.startswith("["):
        inside, _, port = text[1:].partition("]")
        return text if port and not port.startswith(":") else inside
    return (text.partition(":")[0] or text).removesuffix(".")


def is_address(name: str) -> bool:
    """Whether it is an IP address, which nobody can point elsewhere."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def is_loopback(address: str) -> bool:
    """Whether only this host can have connected to it."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    mapped = getattr(found, "ipv4_mapped", None)
    return (mapped or found).is_loopback


def host_not_allowed(name: str) -> ApiError:
    """403."""
    shown = name if len(name) <= _SHOWN else name[:_SHOWN] + "..."
    return ApiError(
        403,
        f"This endpoint needs no key and so answers at localhost or an IP address only, not at "
        f"'{shown}'. Call it there, or add the name to [proxy] allowed_hosts, or set [proxy] "
        "require_keys.",
        code="host_not_allowed",
    )
