"""Divides room among the callers that share it, so that none keeps the others out. Pure."""

import ipaddress


class SharedRoom:
    """What callers hold of it: each at most half of what the others leave, or one largest thing.

    Attributes:
        held: by all callers together.

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
        """Count that a caller holds more; False if there is no room for it."""
        mine = self._of.get(caller, 0)
        left = self._size - self.held + mine
        if mine + more > min(left, max(left // 2, self._largest)):
            return False
        self.add(caller, more)
        return True

    def add(self, caller: str, more: int) -> None:
        """Count that a caller holds more, or less, whether or not there is room."""
        self.held += more
        mine = self._of.pop(caller, 0) + more
        if mine:
            self._of[caller] = mine

    def larger(self, caller: str) -> str | None:
        """Return who holds the most, if that is more than the caller holds."""
        most = max(self._of, key=self._of.__getitem__)
        return most if self._of[most] > self._of[caller] else None


def network_of(address: str) -> str:
    """Return whose an address is: one client has all addresses of a /64 of IPv6."""
    if ":" not in address:
        return address
    return str(ipaddress.ip_network((address.partition("%")[0], 64), strict=False))
