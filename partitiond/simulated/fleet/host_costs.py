"""Models the host's costs: the way of a request to its engine and back, and shared cores.

A request waits for more than its engine's steps. Client, proxy and the engine's own server parse,
tokenise, forward and send back, and need cores for this work. On a host with an idle core they have
that core. On a host whose cores all work for engines, such as a CPU device near its capacity, they
share a core with an engine: they take longer, and the engine loses the time that they use.

The way is counted once, in front of the engine. Its split into time before and after the engine
makes no visible difference: client and proxy see only the sum.
"""

import dataclasses
from collections.abc import Iterable
from typing import Final, Protocol

from partitiond.core.hardware.kinds import Device


@dataclasses.dataclass(frozen=True, slots=True)
class HostCosts:
    """Costs of a request beyond its engine's steps. All are zero by default.

    Attributes:
        way_seconds: from the client's sending to the engine's scheduler, plus from the end of a
            step to the client, on a host with an idle core. Fitted to times to the first token.
        crowded_seconds: additional time of the way while no core is idle. Fitted to the same times.
        admit_seconds: added to the step that admits a request, besides its prompt tokens: the
            engine's server works on the engine's own cores. Fitted to the gaps between tokens.
        request_cpu_seconds, token_cpu_seconds: CPU time of processes without cores of their own
            (client and proxy) per request and per output token. Engines lose this time while no
            core is idle. Fitted to the processes' CPU counters.
        schedules_ahead: whether the engine chooses a step before the one under way has ended
            (vLLM's asynchronous scheduling, the default on GPUs but not on CPUs): a request that
            arrives during a step waits for the next one, too.
    """

    way_seconds: float = 0.0
    crowded_seconds: float = 0.0
    admit_seconds: float = 0.0
    request_cpu_seconds: float = 0.0
    token_cpu_seconds: float = 0.0
    schedules_ahead: bool = False

    def way(self, crowded: bool) -> float:
        """Return seconds that the way of a request adds to its time to the first token."""
        return self.way_seconds + self.crowded_seconds if crowded else self.way_seconds

    def lost_to_request(self, crowded: bool) -> float:
        """Return seconds that an engine loses to the processing of one request."""
        return self.request_cpu_seconds if crowded else 0.0

    def step_seconds(self, emitting: int, admitted: int, crowded: bool) -> float:
        """Return seconds that host costs add to a step.

        Args:
            emitting: tokens that the step sends.
            admitted: requests that the step admits.
            crowded: whether no core of the host is idle.
        """
        lost = emitting * self.token_cpu_seconds if crowded else 0.0
        return lost + admitted * self.admit_seconds


NO_COSTS: Final = HostCosts()


def is_crowded(working_cores: int, host_cores: int) -> bool:
    """Return whether engines keep every core of the host busy; False if its cores are unknown."""
    return 0 < host_cores <= working_cores


def cores_of(devices: Iterable[Device]) -> int:
    """Count the cores of the host with these devices; several devices may list the same cores."""
    return len({core for device in devices for core in device.cores})


class HostEngine(Protocol):
    """The part of an engine that the host uses."""

    @property
    def cores(self) -> int:
        """Cores of the host that the engine keeps busy while it works."""
        ...

    @property
    def costs(self) -> HostCosts:
        """Host costs of the engine's requests."""
        ...

    def cut(self) -> None:
        """End the planned leap with the step under way, because the engine's pace changes."""
        ...


class Host:
    """Tracks the cores of one host, and which engines keep them busy now.

    Attributes:
        cores: cores of the host that engines may use; 0 if unknown: then the host is never crowded.
        crowded: whether no core is idle.
    """

    def __init__(self, cores: int = 0) -> None:
        self.cores = cores
        self.crowded = False
        # Engines at work whose steps take longer on a crowded host.
        self._slowed: dict[HostEngine, None] = {}
        self._busy = 0

    def began(self, engine: HostEngine) -> None:
        """Record that an engine has work again."""
        if engine.costs.token_cpu_seconds:
            self._slowed[engine] = None
        self._changed(engine.cores, engine)

    def rested(self, engine: HostEngine) -> None:
        """Record that an engine has no more work."""
        self._slowed.pop(engine, None)
        self._changed(-engine.cores, engine)

    def _changed(self, cores: int, by: HostEngine) -> None:
        self._busy += cores
        crowded = is_crowded(self._busy, self.cores)
        if crowded != self.crowded:
            self.crowded = crowded
            for engine in self._slowed:
                if engine is not by:
                    engine.cut()
