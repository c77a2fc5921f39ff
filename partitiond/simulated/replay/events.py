"""Runs the events of a simulation in order. Time passes only between events."""

import heapq
import itertools
from collections.abc import Callable

Event = Callable[[], None]


class SimulatedClock:
    """Runs events by time; at equal times in the order of planning.

    Attributes:
        now: simulated seconds since the start.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self._due: list[tuple[float, int, Event]] = []
        self._numbers = itertools.count()

    def at(self, when: float, event: Event) -> None:
        """Plan an event; an event in the past is due now."""
        heapq.heappush(self._due, (max(when, self.now), next(self._numbers), event))

    def run(self, until: float) -> None:
        """Run every event up to `until`, and set the clock to `until`."""
        while self._due and self._due[0][0] <= until:
            self.now, _, event = heapq.heappop(self._due)
            event()
        self.now = max(self.now, until)
