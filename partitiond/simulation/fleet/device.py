"""Devices that the engines of a fleet share; see `simulation.engine.SharedDevice`."""

from typing import TYPE_CHECKING, Final

from partitiond.core.hardware import SharingMode
from partitiond.core.interference import DEFAULT, Interference, sigma
from partitiond.simulation.fleet.clock import FleetClock
from partitiond.simulation.host import Host

if TYPE_CHECKING:
    from partitiond.simulation.fleet.engine import FleetEngine

MOST_SIGMAS: Final = 4096
"""Kept of a device, by which of its engines work."""
ALWAYS_ALONE: Final = (SharingMode.WHOLE, SharingMode.MIG)


class FleetDevice:
    """What the engines of one device do to each other; see `simulation.engine.SharedDevice`.

    Attributes:
        host: whose cores its engines keep busy; by default one that is never crowded.
        sigma: slow-down of those that work now.
        working: how many those are.
        busy_seconds: time with at least one at work, up to `since`.
    """

    def __init__(
        self,
        clock: FleetClock,
        mode: SharingMode,
        interference: Interference = DEFAULT,
        host: Host | None = None,
    ) -> None:
        self.host = host or Host()
        self.sigma = 1.0
        self.working = 0
        self.busy_seconds = 0.0
        self.since = 0.0
        self._clock = clock
        self._mode = mode
        self._interference = interference
        self._alone = mode in ALWAYS_ALONE
        self._at_work: dict[FleetEngine, None] = {}
        self._mask = 0
        self._numbers = 0
        self._known: dict[int, float] = {}

    def join(self) -> int:
        """A bit that stands for one more engine."""
        self._numbers += 1
        return 1 << (self._numbers - 1)

    def began(self, engine: "FleetEngine") -> None:
        """An engine has work again."""
        if not self.working:
            self.since = self._clock.now
        self.working += 1
        self.host.began(engine)
        if not self._alone:
            self._at_work[engine] = None
            self._mask |= engine.bit
            self._changed(engine)

    def rested(self, engine: "FleetEngine") -> None:
        """An engine has nothing to do any more."""
        self.working -= 1
        self.host.rested(engine)
        if not self.working:
            self.busy_seconds += self._clock.now - self.since
        if not self._alone:
            del self._at_work[engine]
            self._mask &= ~engine.bit
            self._changed(engine)

    def _changed(self, by: "FleetEngine") -> None:
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
