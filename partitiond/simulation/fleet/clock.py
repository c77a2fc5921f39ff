"""The clock of a fleet simulation: events are an object and a number, so that millions are cheap.

The order is that of `simulation.events.Clock`: by time, and of equal times the one planned first.
"""

import heapq
from collections.abc import Callable


class Due:
    """Something that is told when its time has come."""

    def due(self, number: int) -> None:
        """Its time has come.

        Args:
            number: what it was planned with; tells an event that still counts from one that does
                not any more.
        """
        raise NotImplementedError


class Once(Due):
    """A function as an event."""

    def __init__(self, then: Callable[[], None]) -> None:
        self._then = then

    def due(self, number: int) -> None:
        """Call it."""
        del number
        self._then()


class FleetClock:
    """Runs events in their order.

    Attributes:
        now: simulated seconds since the start.
        events: how many it has run.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self.events = 0
        self._heap: list[tuple[float, int, Due, int]] = []
        self._planned = 0

    def plan(self, when: float, who: Due, number: int = 0) -> None:
        """Plan an event; one in the past is due now."""
        self._planned += 1
        heapq.heappush(self._heap, (max(when, self.now), self._planned, who, number))

    def at(self, when: float, then: Callable[[], None]) -> None:
        """Plan a call."""
        self.plan(when, Once(then))

    def run(self, until: float) -> None:
        """Run every event up to `until`, and stand there."""
        heap = self._heap
        events = 0
        while heap and heap[0][0] <= until:
            now, _, who, number = heapq.heappop(heap)
            self.now = now
            events += 1
            who.due(number)
        self.events += events
        self.now = max(self.now, until)
