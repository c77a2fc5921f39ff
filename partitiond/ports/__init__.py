"""Defines what the controller, profiler and API need from the world. Adapters implement it.

Each port has a real adapter and a shipped fake; one contract suite in `tests/contract/` runs the
same cases on both.
"""

from partitiond.ports.engine import (
    EngineExit,
    EngineHandle,
    EngineLaunch,
    EngineReport,
    EngineRunner,
)
from partitiond.ports.gauges import DeviceGauges, DeviceReading
from partitiond.ports.host import Clock, DeviceCare, DeviceProvider, PartialDevices, ProxyControl
from partitiond.ports.model import ModelResolver, ResolvedModel
from partitiond.ports.overview import (
    DeviceOverview,
    FrontierPoint,
    FrontierView,
    ModelOverview,
    Overview,
    Overviews,
    ReplicaOverview,
)
from partitiond.ports.partitions import DeviceFault, PartitionControl, ShareUse
from partitiond.ports.preview import PlanPreview
from partitiond.ports.profiling import ProfileRequest, ProfileRunner, Progress
from partitiond.ports.service import (
    ControlService,
    KeyView,
    ModelView,
    ProfileOptions,
    ProfileView,
    PrunableProfile,
    ReplicaView,
)
from partitiond.ports.store import (
    ENDED,
    Event,
    Job,
    JobState,
    KeyRecord,
    ModelRecord,
    Store,
    UnreadBody,
)
from partitiond.ports.telemetry import TelemetrySource, TelemetryWindow

__all__ = [
    "ENDED",
    "Clock",
    "ControlService",
    "DeviceCare",
    "DeviceFault",
    "DeviceGauges",
    "DeviceOverview",
    "DeviceProvider",
    "DeviceReading",
    "EngineExit",
    "EngineHandle",
    "EngineLaunch",
    "EngineReport",
    "EngineRunner",
    "Event",
    "FrontierPoint",
    "FrontierView",
    "Job",
    "JobState",
    "KeyRecord",
    "KeyView",
    "ModelOverview",
    "ModelRecord",
    "ModelResolver",
    "ModelView",
    "Overview",
    "Overviews",
    "PartialDevices",
    "PartitionControl",
    "PlanPreview",
    "ProfileOptions",
    "ProfileRequest",
    "ProfileRunner",
    "ProfileView",
    "Progress",
    "ProxyControl",
    "PrunableProfile",
    "ReplicaOverview",
    "ReplicaView",
    "ResolvedModel",
    "ShareUse",
    "Store",
    "TelemetrySource",
    "TelemetryWindow",
    "UnreadBody",
]
