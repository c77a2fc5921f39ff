"""Holds the options of `partitiond tools advise`, parsed and checked."""

import dataclasses
from pathlib import Path

from partitiond.core.plan.record import Objective


@dataclasses.dataclass(frozen=True, slots=True)
class AdviseRequest:
    """The options, parsed and checked.

    Attributes:
        addresses: where engines answer.
        seconds: how long to watch the addresses.
        every_seconds: seconds between two looks.
        window_seconds: length of the busiest window to plan for; None for all that is seen.
        models: the model behind each served name.
    """

    addresses: tuple[str, ...]
    seconds: float
    every_seconds: float
    gpus: tuple[str, ...]
    fleet: Path | None
    models: dict[str, str]
    profiles: tuple[Path, ...]
    slo: tuple[float, float] | None
    window_seconds: float | None
    objective: Objective
    time_limit_seconds: float
