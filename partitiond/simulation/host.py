"""What the host costs: the way of a request to its engine and back, and cores that are shared.

An engine's step is not all that a request waits for. Client, proxy and the engine's own server
parse, tokenise, pass on and send back, and they need cores for it. On a host with an idle core they
have it to themselves. On a host whose cores all work for engines, as a CPU device's do near its
capacity, they share a core with an engine: they take longer, and the engine loses what they use.

The way is counted once, in front of the engine. Where on the way the time goes, before the engine
or behind it, shows in nothing that a client or the proxy sees: they see both together.
"""

import dataclasses
from collections.abc import Iterable
from typing import Final, Protocol

from partitiond.core.hardware import Device


@dataclasses.dataclass(frozen=True, slots=True)
class HostCosts:
    """What a request costs beyond its engine's steps. All zero: nothing.

    Attributes:
        way_seconds: from the client's sending to the engine's scheduler, and from the end of a step
            to the client, on a host with an idle core. Fitted to times to the first token.
        crowded_seconds: so much longer the way takes while no core is idle. Fitted to the same.
        admit_seconds: of the step that takes a request in, beside what its prompt tokens cost: the
            engine's server works on the engine's own cores. Fitted to the gaps between tokens.
        request_cpu_seconds, token_cpu_seconds: CPU time of processes without cores of their own
            (client and proxy) for each request and each output token. Engines lose it while no core
            is idle. Fitted to the processes' CPU counters.
        schedules_ahead: the engine chooses a step before the one under way has ended (vLLM's
            asynchronous scheduling, its default on a GPU and off on a CPU): a request that arrives
            during a step waits for the next one as well.
    """

    way_seconds: float = 0.0
    crowded_seconds: float = 0.0
    admit_seconds: float = 0.0
    request_cpu_seconds: float = 0.0
    token_cpu_seconds: float = 0.0
    schedules_ahead: bool = False

    def way(self, crowded: bool) -> float:
        """Seconds that the way of a request adds to its time to the first token."""
        return self.way_seconds + self.crowded_seconds if crowded else self.way_seconds

    def lost_to_request(self, crowded: bool) -> float:
        """Seconds that an engine loses to the processing of one request."""
        return self.request_cpu_seconds if crowded else 0.0

    def step_seconds(self, emitting: int, admitted: int, crowded: bool) -> float:
        """Seconds of a step beyond the engine's own.

        Args:
            emitting: tokens that it sends.
            admitted: requests that it takes in.
            crowded: whether no core of the host is idle.
        """
        lost = emitting * self.token_cpu_seconds if crowded else 0.0
        return lost + admitted * self.admit_seconds


NO_COSTS: Final = HostCosts()


def is_crowded(working_cores: int, host_cores: int) -> bool:
    """Whether engines keep every core of the host busy; never where its cores are not known."""
    return 0 < host_cores <= working_cores


def cores_of(devices: Iterable[Device]) -> int:
    """Cores of the host that has these devices; several of them may list the same ones."""
    return len({core for device in devices for core in device.cores})


class Engine(Protocol):
    """What the host needs of an engine."""

    @property
    def cores(self) -> int:
        """Cores of the host that it keeps busy while it works."""
        ...

    @property
    def costs(self) -> HostCosts:
        """What the host costs its requests."""
        ...

    def cut(self) -> None:
        """End what was planned ahead with the step under way: its pace changes."""
        ...


class Host:
    """The cores of one host, and which engines keep them busy now.

    Attributes:
        cores: of the host that engines may use; 0 where they are not known: it is never crowded.
        crowded: no core is idle.
    """

    def __init__(self, cores: int = 0) -> None:
        self.cores = cores
        self.crowded = False
        # Engines at work whose steps take longer on a crowded host.
        self._slowed: dict[Engine, None] = {}
        self._busy = 0

    def began(self, engine: Engine) -> None:
        """An engine has work again."""
        if engine.costs.token_cpu_seconds:
            self._slowed[engine] = None
        self._changed(engine.cores, engine)

    def rested(self, engine: Engine) -> None:
        """An engine has nothing to do any more."""
        self._slowed.pop(engine, None)
        self._changed(-engine.cores, engine)

    def _changed(self, cores: int, by: Engine) -> None:
        self._busy += cores
        crowded = is_crowded(self._busy, self.cores)
        if crowded != self.crowded:
            self.crowded = crowded
            for engine in self._slowed:
                if engine is not by:
                    engine.cut()
