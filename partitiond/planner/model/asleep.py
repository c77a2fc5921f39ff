"""Computes what sleeping replicas hold, and whether an engine with sleep mode can run."""

import math

from partitiond.core.hardware.kinds import DeviceKind, SharingMode
from partitiond.core.model.spec import ModelSpec
from partitiond.core.performance.footprint import sleeping_footprint
from partitiond.core.plan.record import SleepingFootprint
from partitiond.core.profile.record import MEMORY_MARGIN, Profile
from partitiond.core.units import MIB, Bytes


def can_sleep_there(spec: ModelSpec, profile: Profile) -> bool:
    """Whether an engine with the spec's sleep mode starts where the profile was measured.

    vLLM has no sleep mode on a CPU: such a replica would be refused at each start.
    """
    asked = spec.as_variant(profile.variant).engine.sleep_mode and spec.engine_kind == "vllm"
    return not (asked and profile.size.mode is SharingMode.CORES)


def asleep(profile: Profile, spec: ModelSpec) -> SleepingFootprint | None:
    """Return what a replica holds asleep, with its profile's margin; None if it never sleeps."""
    if not spec.as_variant(profile.variant).engine.sleep_mode:
        return None
    on_cpu = profile.size.mode is SharingMode.CORES
    exact = sleeping_footprint(profile.footprint, DeviceKind.CPU if on_cpu else DeviceKind.GPU)

    def with_margin(size: int) -> Bytes:
        return Bytes(math.ceil(size * (1 + MEMORY_MARGIN[profile.kind]) / MIB) * MIB)

    return SleepingFootprint(
        with_margin(exact.level_1_bytes),
        with_margin(exact.level_2_bytes),
        with_margin(exact.host_bytes),
    )
