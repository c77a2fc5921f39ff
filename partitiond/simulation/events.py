"""The clock of a simulation: what is due, in order. No time passes outside it."""

import heapq
import itertools
from collections.abc import Callable

Event = Callable[[], None]


class Clock:
    """Runs events in the order of their times; of equal times the one planned first goes first.

    Attributes:
        now: simulated seconds since the start.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self._due: list[tuple[float, int, Event]] = []
        self._numbers = itertools.count()

    def at(self, when: float, event: Event) -> None:
        """Plan an event; one in the past is due now."""
        heapq.heappush(self._due, (max(when, self.now), next(self._numbers), event))

    def run(self, until: float) -> None:
        """Run every event up to `until`, and stand there."""
        while self._due and self._due[0][0] <= until:
            self.now, _, event = heapq.heappop(self._due)
            event()
        self.now = max(self.now, until)
