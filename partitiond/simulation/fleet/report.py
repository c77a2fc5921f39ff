"""What a run of a fleet says, as plain data."""

import dataclasses
import math
from collections.abc import Iterable
from typing import Self

from partitiond.core.spec import Slo
from partitiond.simulation.fleet.tally import Served


@dataclasses.dataclass(frozen=True, slots=True)
class Resources:
    """What was used in the window.

    Attributes:
        gpu_hours: time that devices held engines; of one model, its share of its devices' time by
            what its engines hold of their memory.
        idle_joules: what those devices draw without load in that time.
        work_joules: what the tokens cost on top; None where a replica's draw is not known.
    """

    gpu_hours: float = 0.0
    idle_joules: float = 0.0
    work_joules: float | None = 0.0

    @property
    def kwh(self) -> float | None:
        """All of it."""
        return None if self.work_joules is None else (self.idle_joules + self.work_joules) / 3.6e6

    def beyond(self, before: "Resources") -> Self:
        """What was used since then."""
        known = self.work_joules is not None and before.work_joules is not None
        return type(self)(
            self.gpu_hours - before.gpu_hours,
            self.idle_joules - before.idle_joules,
            (self.work_joules or 0.0) - (before.work_joules or 0.0) if known else None,
        )

    @classmethod
    def together(cls, parts: Iterable["Resources"]) -> Self:
        """The sum."""
        all_of = list(parts)
        known = all(part.work_joules is not None for part in all_of)
        return cls(
            math.fsum(part.gpu_hours for part in all_of),
            math.fsum(part.idle_joules for part in all_of),
            math.fsum(part.work_joules or 0.0 for part in all_of) if known else None,
        )


@dataclasses.dataclass(frozen=True, slots=True)
class ModelReport:
    """One model, or all of them."""

    model: str
    slo: Slo | None
    served: Served
    used: Resources


@dataclasses.dataclass(frozen=True, slots=True)
class FleetReport:
    """A run.

    Attributes:
        seconds: simulated, in which what arrived is counted.
        models: those to which something came, or that held room.
        all: all of them as one.
        devices, devices_used: of the fleet, and those that ever held an engine.
        preemptions: sequences that lost their place in an engine.
        engine_starts: of engines, beyond those that ran at the beginning.
        plans: that were made and applied on the way.
        events: of the simulation.
        cpu_seconds: it took.
    """

    seconds: float
    models: tuple[ModelReport, ...]
    all: ModelReport
    devices: int
    devices_used: int
    preemptions: int
    engine_starts: int
    plans: int
    events: int
    cpu_seconds: float

    @property
    def events_per_s(self) -> float:
        """Events by seconds of CPU time."""
        return self.events / max(1e-9, self.cpu_seconds)
