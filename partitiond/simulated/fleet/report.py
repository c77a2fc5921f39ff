"""Defines the report of a fleet run, as plain data."""

import dataclasses
import math
from collections.abc import Iterable
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

    @classmethod
    def sum_of(cls, parts: Iterable["Resources"]) -> Self:
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


@dataclasses.dataclass(frozen=True, slots=True)
class FleetReport:
    """Figures of a run.

    Attributes:
        seconds: simulated length of the window; requests that arrived in it are counted.
        models: models with arrivals, or that used devices.
        all: all models together.
        devices, devices_used: devices of the fleet, and devices that hold an engine.
        preemptions: sequences that lost their place in an engine.
        events: events of the simulation.
        cpu_seconds: CPU time of the simulation.
    """

    seconds: float
    models: tuple[ModelReport, ...]
    all: ModelReport
    devices: int
    devices_used: int
    preemptions: int
    events: int
    cpu_seconds: float

    @property
    def events_per_s(self) -> float:
        """Events per second of CPU time."""
        return self.events / max(1e-9, self.cpu_seconds)
