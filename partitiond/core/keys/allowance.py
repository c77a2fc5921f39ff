"""Says what one host may use of a key's limits, where several hosts serve the key.

`core.keys.portions` works an allowance out, some ten times a second; `core.keys.rates` asks it for
each request. It is a row of plain numbers, so that the workers of one host can share it.
"""

import dataclasses
from collections.abc import Sequence
from typing import Final

TOLERANCE: Final = 1e-6
"""A sum of floats that is off by less must not refuse what is due; requests and tokens are whole.
"""
ROW_NUMBERS: Final = 18


@dataclasses.dataclass(frozen=True, slots=True)
class Part:
    """What this host may use of one limit.

    Attributes:
        floor: least use of this host that a peer may believe.
        ceiling: use that this host may reach, by what it promised its peers.
        unheard: what all peers together may use without having been heard.
        largest: the largest such amount of one peer.
    """

    floor: float
    ceiling: float
    unheard: float
    largest: float

    def refuses(self, used: float, amount: float, left: float) -> bool:
        """Return whether this amount is too much now, although as much seems to be left.

        One request is always let through if the peers know of all earlier use. What peers may use
        unheard is left out of account if none of them may use more than this request: this bounds
        the excess by one request for each peer.

        Args:
            used: by this host, all its workers together.
            amount: of the request.
            left: as far as this host knows.
        """
        if used > self.floor + TOLERANCE and used + amount > self.ceiling + TOLERANCE:
            return True
        return self.largest > amount and left - amount < self.unheard - TOLERANCE


@dataclasses.dataclass(slots=True)
class Allowance:
    """What this host may use of all limits of a key.

    Attributes:
        hosts: that may use the key.
        budget_start: start of the budget's period for which `budget` is, Unix seconds.
        wanted: a request was refused for lack of a portion; tell it to `Portions.want`.
    """

    hosts: int
    requests: Part
    tokens: Part
    in_flight: Part
    budget_start: float
    budget: Part
    wanted: bool = False

    def budget_in(self, start: float, limit: float) -> Part:
        """Return the part of the budget in the period that began at `start`.

        In a period that this host has not told of yet, each host has one part of `hosts`.
        """
        return self.budget if self.budget_start == start else first_part(limit, self.hosts)

    def as_row(self) -> tuple[float, ...]:
        """Return `ROW_NUMBERS` numbers, for a table that workers share."""
        row = [float(self.hosts), self.budget_start]
        for part in (self.requests, self.tokens, self.in_flight, self.budget):
            row += (part.floor, part.ceiling, part.unheard, part.largest)
        return tuple(row)


def allowance_of_row(row: Sequence[float]) -> Allowance:
    """Convert back."""
    parts = [Part(row[at], row[at + 1], row[at + 2], row[at + 3]) for at in range(2, 18, 4)]
    return Allowance(int(row[0]), parts[0], parts[1], parts[2], row[1], parts[3])


def first_part(limit: float, hosts: int) -> Part:
    """Return the part of each host before anything was used or told."""
    each = limit / max(1, hosts)
    return Part(0.0, each, each * (hosts - 1), each if hosts > 1 else 0.0)
