"""Simulates devices that a fleet's engines share.

A device slows its engines down by the sigma of the engines that have work now, using the planner's
function. A new sigma applies from the next step on, not to a step that has begun.
"""

from typing import Final, Protocol

from partitiond.core.hardware.kinds import SharingMode
from partitiond.core.performance.interference import ALONE, DEFAULT, Interference, sigma
from partitiond.core.plan.record import Candidate
from partitiond.simulated.fleet.events import SimulatedClock

MOST_SIGMAS: Final = 4096
"""Most sigmas memoised per device, by the set of its working engines."""


class Sharer(Protocol):
    """An engine as its device sees it.

    Attributes:
        bit: the engine's bit, of `FleetDevice.join`.
        candidate: the candidate that the engine runs.
    """

    bit: int
    candidate: Candidate

    def cut(self) -> None:
        """End the running step early, because the slow-down changed."""


class FleetDevice:
    """Models how engines of one device slow each other down.

    Attributes:
        sigma: slow-down of the engines that work now.
        working: number of engines that work now.
        busy_seconds: time with at least one engine at work, up to `since`.
    """

    def __init__(
        self,
        clock: SimulatedClock,
        mode: SharingMode,
        interference: Interference = DEFAULT,
    ) -> None:
        self.sigma = 1.0
        self.working = 0
        self.busy_seconds = 0.0
        self.since = 0.0
        self._clock = clock
        self._mode = mode
        self._interference = interference
        self._alone = mode in ALONE
        self._at_work: dict[Sharer, None] = {}
        self._mask = 0
        self._numbers = 0
        self._known: dict[int, float] = {}

    def join(self) -> int:
        """Return a bit that represents one more engine."""
        self._numbers += 1
        return 1 << (self._numbers - 1)

    def began(self, engine: Sharer) -> None:
        """Record that an engine has work again."""
        if not self.working:
            self.since = self._clock.now
        self.working += 1
        if not self._alone:
            self._at_work[engine] = None
            self._mask |= engine.bit
            self._changed(engine)

    def rested(self, engine: Sharer) -> None:
        """Record that an engine has no more work."""
        self.working -= 1
        if not self.working:
            self.busy_seconds += self._clock.now - self.since
        if not self._alone:
            del self._at_work[engine]
            self._mask &= ~engine.bit
            self._changed(engine)

    def _changed(self, by: Sharer) -> None:
        new = self._known.get(self._mask)
        if new is None:
            new = self._sigma()
        if new != self.sigma:
            self.sigma = new
            for engine in self._at_work:
                if engine is not by:
                    engine.cut()

    def _sigma(self) -> float:
        candidates = [engine.candidate for engine in self._at_work]
        found = sigma(
            self._mode,
            [c.busy for c in candidates],
            self._interference,
            [c.kappa for c in candidates],
        )
        if len(self._known) >= MOST_SIGMAS:
            self._known.clear()
        self._known[self._mask] = found
        return found
