"""Defines the report of a fleet run, as plain data."""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Self

from partitiond.core.model.spec import Slo
from partitiond.simulated.fleet.tally import ServedCounts


@dataclasses.dataclass(frozen=True, slots=True)
class Resources:
    """Resources used in the window.

    Attributes:
        gpu_hours: time that devices held engines; for one model, its share of its devices' time, by
            the memory that its engines hold.
        idle_joules: energy of those devices without load in that time.
        work_joules: additional energy of the tokens; None if a replica's draw is unknown.
    """

    gpu_hours: float = 0.0
    idle_joules: float = 0.0
    work_joules: float | None = 0.0

    @property
    def kwh(self) -> float | None:
        """Total energy."""
        return None if self.work_joules is None else (self.idle_joules + self.work_joules) / 3.6e6

    def beyond(self, before: "Resources") -> Self:
        """Return the resources used since `before`."""
        known = self.work_joules is not None and before.work_joules is not None
        return type(self)(
            self.gpu_hours - before.gpu_hours,
            self.idle_joules - before.idle_joules,
            (self.work_joules or 0.0) - (before.work_joules or 0.0) if known else None,
        )

    @classmethod
    def together(cls, parts: Iterable["Resources"]) -> Self:
        """Return the sum of the parts."""
        all_of = list(parts)
        known = all(part.work_joules is not None for part in all_of)
        return cls(
            math.fsum(part.gpu_hours for part in all_of),
            math.fsum(part.idle_joules for part in all_of),
            math.fsum(part.work_joules or 0.0 for part in all_of) if known else None,
        )


@dataclasses.dataclass(frozen=True, slots=True)
class ModelReport:
    """Figures of one model, or of all models."""

    model: str
    slo: Slo | None
    served: ServedCounts
    used: Resources


@dataclasses.dataclass(slots=True)
class OutageReport:
    """What became of one outage; times are seconds of the simulation.

    Attributes:
        lost_seconds: when the head gave the host up; None if it was back before.
        repaired_seconds: when all that is planned served on other hosts; None if it never did, or
            the host was not given up.
        back_seconds: when the head counted with the host again; None if it never did.
        waited: plans that were not applied, because they move or stop what runs.
    """

    host: str
    from_seconds: float
    lost_seconds: float | None = None
    repaired_seconds: float | None = None
    back_seconds: float | None = None
    waited: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class FleetReport:
    """Figures of a run.

    Attributes:
        seconds: simulated length of the window; requests that arrived in it are counted.
        models: models with arrivals, or that used devices.
        all: all models together.
        devices, devices_used: devices of the fleet, and devices that ever held an engine.
        preemptions: sequences that lost their place in an engine.
        engine_starts: starts of engines, without engines that ran at the beginning.
        plans: plans that were made and applied during the run.
        events: events of the simulation.
        cpu_seconds: CPU time of the simulation.
        outages: of hosts, in the order in which they began.
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
    outages: Sequence[OutageReport] = ()

    @property
    def events_per_s(self) -> float:
        """Events per second of CPU time."""
        return self.events / max(1e-9, self.cpu_seconds)
