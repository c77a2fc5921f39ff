"""Says which routing tables an endpoint may have, by what it was sent and what it answered. Pure.

Only an answer confirms a table. One that is being sent, or whose answer was lost, may be in force
now or later, and so may each one since the last that was confirmed.
"""

import dataclasses
from collections.abc import Callable
from typing import Final

from partitiond.core.dispatch.routing import RoutingTable

MOST_TOLD: Final = 16
"""Unconfirmed tables that are remembered; with more, what the endpoint has is not known. Chosen."""


@dataclasses.dataclass(frozen=True, slots=True)
class ToldTables:
    """The tables that an endpoint may have.

    Attributes:
        tables: the one confirmed last and all sent since, oldest first; None is any table.
    """

    tables: tuple[RoutingTable | None, ...] = (None,)

    @property
    def confirmed(self) -> RoutingTable | None:
        """The only table that the endpoint can have; None if there is no such one."""
        return self.tables[0] if len(self.tables) == 1 else None

    def sent(self, table: RoutingTable) -> "ToldTables":
        """Return what it may have from just before a table is sent."""
        if self.tables[-1] is table:
            return self
        kept = self.tables if len(self.tables) < MOST_TOLD else (None,)
        return ToldTables((*kept, table))

    def answered(self, table: RoutingTable) -> "ToldTables":
        """Return what it may have once it took a table: that one, and those sent after it."""
        for place, one in enumerate(self.tables):
            if one is table:
                return ToldTables(self.tables[place:])
        return self

    def all_hold(self, holds: Callable[[RoutingTable], bool]) -> bool:
        """Whether `holds` is true for each table that it may have."""
        return all(one is not None and holds(one) for one in self.tables)
