"""Limits open connections by client address, so that one address cannot take all of them."""

import ipaddress
from collections.abc import Sequence


class Addresses:
    """Counts connections; addresses without connections are forgotten.

    Args:
        limit: connections of one address; 0 for no such limit.
        exempt: networks that are not limited, such as those of trusted proxies.
    """

    def __init__(self, limit: int, exempt: Sequence[str] = ()) -> None:
        self._limit = limit
        self._exempt = [ipaddress.ip_network(network, strict=False) for network in exempt]
        self._open: dict[str, int] = {}

    def opened(self, address: str) -> bool:
        """Count a connection that begins; return whether it is beyond the limit."""
        if not self._limit:
            return False
        count = self._open[address] = self._open.get(address, 0) + 1
        return count > self._limit and not self._is_exempt(address)

    def closed(self, address: str) -> None:
        """Uncount a connection that has ended."""
        if not self._limit:
            return
        left = self._open.get(address, 0) - 1
        if left > 0:
            self._open[address] = left
        else:
            self._open.pop(address, None)

    def _is_exempt(self, address: str) -> bool:
        try:
            found = ipaddress.ip_address(address)
        except ValueError:  # a Unix socket has none
            return True
        return any(found in network for network in self._exempt)
