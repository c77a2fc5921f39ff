"""Runs the events of a simulation in order. Time passes only between events.

An event is an object and a number, so millions of them are cheap; a call is an event as well.
"""

import heapq
from collections.abc import Callable


class EventTarget:
    """An object that is called when one of its events is due."""

    def due(self, number: int) -> None:
        """Handle a due event.

        Args:
            number: number given at planning; tells a valid event from an outdated one.
        """
        raise NotImplementedError


class _Call(EventTarget):
    """An event that calls a function."""

    def __init__(self, then: Callable[[], None]) -> None:
        self._then = then

    def due(self, number: int) -> None:
        """Call the function."""
        del number
        self._then()


class SimulatedClock:
    """Runs events by time; at equal times in the order of planning.

    Attributes:
        now: simulated seconds since the start.
        events: number of events run so far.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self.events = 0
        self._heap: list[tuple[float, int, EventTarget, int]] = []
        self._planned = 0

    def plan(self, when: float, who: EventTarget, number: int = 0) -> None:
        """Plan an event; an event in the past is due now."""
        self._planned += 1
        heapq.heappush(self._heap, (max(when, self.now), self._planned, who, number))

    def at(self, when: float, then: Callable[[], None]) -> None:
        """Plan a call; one in the past is due now."""
        self.plan(when, _Call(then))

    def run(self, until: float) -> None:
        """Run every event up to `until`, and set the clock to `until`."""
        heap = self._heap
        events = 0
        while heap and heap[0][0] <= until:
            now, _, who, number = heapq.heappop(heap)
            self.now = now
            events += 1
            who.due(number)
        self.events += events
        self.now = max(self.now, until)
