"""Measures what a device and its host expose while engines work.

- NVIDIA GPUs: SM activity, SM occupancy and DRAM activity by GPM (Hopper and newer),
  utilisation, power, energy by the GPU's counter.
- Any device: CPU time of the engines' processes.

A figure that a device does not expose is None, and `HostTelemetry.exposure` says why. No figure is
ever guessed from another, and a failing source never fails a measurement.
"""

from partitiond.devices.telemetry.exposure import ExposedFigures
from partitiond.devices.telemetry.host import HostTelemetry

__all__ = ["ExposedFigures", "HostTelemetry"]
