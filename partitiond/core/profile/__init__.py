"""Defines profiles: operating points of one model on one hardware and partition size, and more.

The parts are split by meaning: `points`, `confirmed`, `sharing`, and `record`, the profile itself.
"""

from partitiond.core.profile.confirmed import (
    CapacityTrial,
    FrontierMemory,
    PaperMode,
    StepTime,
)
from partitiond.core.profile.points import (
    Footprint,
    Interval,
    Knee,
    Latency,
    LimitedBy,
    OperatingPoint,
    Telemetry,
)
from partitiond.core.profile.record import (
    CAPACITY_SHARE_UNCONFIRMED,
    MEMORY_MARGIN,
    RATE_MARGIN,
    SCHEMA_VERSION,
    UNHELD_SHARE,
    Profile,
    ProfileKind,
    Provenance,
    Transfer,
    capacity_req_per_s,
    holds_slo,
    operating_point,
    rate_margin,
)
from partitiond.core.profile.sharing import (
    PairRun,
    ReplicationRun,
    Sharing,
)

__all__ = [
    "CAPACITY_SHARE_UNCONFIRMED",
    "MEMORY_MARGIN",
    "RATE_MARGIN",
    "SCHEMA_VERSION",
    "UNHELD_SHARE",
    "CapacityTrial",
    "Footprint",
    "FrontierMemory",
    "Interval",
    "Knee",
    "Latency",
    "LimitedBy",
    "OperatingPoint",
    "PairRun",
    "PaperMode",
    "Profile",
    "ProfileKind",
    "Provenance",
    "ReplicationRun",
    "Sharing",
    "StepTime",
    "Telemetry",
    "Transfer",
    "capacity_req_per_s",
    "holds_slo",
    "operating_point",
    "rate_margin",
]
