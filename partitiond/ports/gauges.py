"""Gauges: what each device of the host says of itself at one moment."""

import dataclasses
from collections.abc import Mapping
from typing import Protocol


@dataclasses.dataclass(frozen=True, slots=True)
class DeviceReading:
    """What one device says now; None where it does not say.

    Attributes:
        used_bytes: memory in use by anyone.
        watts: drawn now.
        busy_share: of a GPU the share of time any kernel ran, of a CPU the cores in use; 0..1.
        celsius: temperature.
    """

    used_bytes: int | None = None
    watts: float | None = None
    busy_share: float | None = None
    celsius: float | None = None


class DeviceGauges(Protocol):
    """Reads the gauges of all devices of this host."""

    def read(self) -> Mapping[str, DeviceReading]:
        """By device id. May take some milliseconds for each device; raises nothing: a device that
        does not answer is left out."""
        ...
