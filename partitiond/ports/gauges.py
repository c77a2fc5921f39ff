"""Defines gauges: what each device of the host reports about itself at one moment."""

from collections.abc import Mapping
from typing import Protocol

from partitiond.core.hardware.details import DeviceReading


class DeviceGauges(Protocol):
    """Reads the gauges of all devices of this host."""

    def read(self) -> Mapping[str, DeviceReading]:
        """Return readings by device id. May take some milliseconds for each device; never raises: a
        device that does not answer is left out.
        """
        ...
