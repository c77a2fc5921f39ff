"""Divides room among the callers that share it, so that none keeps the others out. Pure."""

import ipaddress


class SharedRoom:
    """Bytes that callers hold: each at most half of what the others leave.

    A second caller gets half of the rest, and so on. A caller may always hold one of the largest
    things, while there is room for it.

    Attributes:
        held: bytes of all callers together.

    Args:
        size: of the room.
        largest: size of the largest thing.
    """

    def __init__(self, size: int, largest: int) -> None:
        self.held = 0
        self._size = size
        self._largest = largest
        self._of: dict[str, int] = {}

    def take(self, caller: str, more: int) -> bool:
        """Count further bytes of a caller; False if there is no room for them."""
        mine = self._of.get(caller, 0)
        left = self._size - self.held + mine
        if mine + more > min(left, max(left // 2, self._largest)):
            return False
        self.add(caller, more)
        return True

    def add(self, caller: str, more: int) -> None:
        """Count bytes, or fewer if negative, whether or not there is room."""
        self.held += more
        mine = self._of.pop(caller, 0) + more
        if mine:
            self._of[caller] = mine


def network_of(address: str) -> str:
    """Return whose an address is: one client has all addresses of a /64 of IPv6."""
    if ":" not in address:
        return address
    return str(ipaddress.ip_network((address.partition("%")[0], 64), strict=False))
