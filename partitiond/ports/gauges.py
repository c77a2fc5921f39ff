"""Defines gauges: what each device of the host reports about itself at one moment."""

import dataclasses
from collections.abc import Mapping
from typing import Protocol


@dataclasses.dataclass(frozen=True, slots=True)
class DeviceReading:
    """The reading of one device; None for what the device does not report.

    Attributes:
        used_bytes: memory in use by any process.
        watts: power drawn now.
        busy_share: on a GPU the share of time any kernel ran, on a CPU of cores in use; 0..1.
        celsius: temperature.
    """

    used_bytes: int | None = None
    watts: float | None = None
    busy_share: float | None = None
    celsius: float | None = None


class DeviceGauges(Protocol):
    """Reads the gauges of all devices of this host."""

    def read(self) -> Mapping[str, DeviceReading]:
        """Readings by device id. May take some milliseconds for each device; never raises: a device
        that does not answer is left out."""
        ...
