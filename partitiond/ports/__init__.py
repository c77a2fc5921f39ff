"""Defines what the controller and the profiler need from the world. Adapters implement it.

Each port has a real adapter and a shipped fake; one contract suite in `tests/contract/` runs the
same cases on both. The API calls the use cases of the control plane itself
(`controller.service.Service`).
"""

from partitiond.ports.engine import EngineRunner, ReturningEngines
from partitiond.ports.gauges import DeviceGauges
from partitiond.ports.host import (
    Clock,
    DeviceCare,
    DeviceProvider,
    HostedDevices,
    PartialDevices,
    ProxyControl,
)
from partitiond.ports.model import FleetModels, ModelFolders, ModelResolver
from partitiond.ports.partitions import PartitionControl, PartitionWatch
from partitiond.ports.profiling import ProfileRequest, ProfileRunner
from partitiond.ports.telemetry import TelemetrySource, TelemetryWindow

__all__ = [
    "Clock",
    "DeviceCare",
    "DeviceGauges",
    "DeviceProvider",
    "EngineRunner",
    "FleetModels",
    "HostedDevices",
    "ModelFolders",
    "ModelResolver",
    "PartialDevices",
    "PartitionControl",
    "PartitionWatch",
    "ProfileRequest",
    "ProfileRunner",
    "ProxyControl",
    "ReturningEngines",
    "TelemetrySource",
    "TelemetryWindow",
]
