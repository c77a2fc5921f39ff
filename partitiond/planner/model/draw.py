"""Computes what a replica takes beside its device: power, host cores and host memory."""

import math
from collections.abc import Iterable
from typing import Final

from partitiond.core.hardware.gpus import HARDWARE
from partitiond.core.hardware.kinds import IDLE_SHARE, Device, DeviceKind, SharingMode
from partitiond.core.hardware.lookup import sm_share
from partitiond.core.model.spec import ModelSpec
from partitiond.core.profile.points import OperatingPoint
from partitiond.core.profile.record import Profile, ProfileKind
from partitiond.core.units import GIB, ZERO_BYTES, Bytes

ENGINE_HOST_BYTES: Final = Bytes(3 * GIB)
"""Host memory of the processes of one engine on a GPU: interpreter, torch with its CUDA libraries
and pinned buffers of the API server and the engine core. Assumed, because profiles do not measure
it. It counts only on hosts whose memory is known."""

GPU_ENGINE_CORES: Final = 3
"""Host cores of a vLLM engine on one GPU whose use was not measured: its API server and its engine
core keep one busy each, its worker wants one (vLLM's guide: 2 + the number of GPUs)."""

SPARE_CORE_SHARE: Final = 0.05
"""Ignored when cores are rounded up, as CPU time is sampled: 1.03 cores are one core. A guess."""


def planned_watts(profile: Profile, point: OperatingPoint) -> float | None:
    """Return the draw at the operating point beyond the idle device, in watts; None if unknown.

    It is the energy of an output token times tokens/s, or else the mean power of the windows, less
    the device's draw without load. Both are of the device, on which the replica was alone. Of an
    estimate that tells neither it is what its share of the SMs could draw, while they work.
    """
    spec = HARDWARE.get(profile.hardware)
    if spec is None or spec.tdp_watts is None:
        return None
    told = point.telemetry.power_watts if point.telemetry is not None else None
    if point.joules_per_output_token is not None:
        told = point.joules_per_output_token * point.output_tokens_per_s
    idle = spec.tdp_watts * IDLE_SHARE
    if told is None and profile.kind is ProfileKind.ESTIMATED:  # by a release that told no power
        works = 1.0 if point.telemetry is None else point.telemetry.gpu_util or 1.0
        return (spec.tdp_watts - idle) * sm_share(spec, profile.size) * works
    return None if told is None else max(0.0, told - idle)


def most_host_cores(devices: Iterable[Device]) -> dict[str, int]:
    """Return the host cores of the GPU with most of them, by hardware; absent where not known."""
    found: dict[str, int] = {}
    for device in devices:
        if device.kind is DeviceKind.GPU and device.cores:
            found[device.hardware] = max(len(device.cores), found.get(device.hardware, 0))
    return found


def host_cores(
    profile: Profile, point: OperatingPoint, spec: ModelSpec, most: int | None = None
) -> int:
    """Return the engine's host cores: its partition's, or on a GPU as many as it used if measured,
    else as many as vLLM asks for, or all (`most`) where no host has as many.

    A plan gives every engine cores of its own, so that engines do not slow each other down on the
    host in any sharing mode. An engine gets as many cores as it keeps busy.
    """
    told = point.telemetry.cores_used if point.telemetry is not None else None
    if profile.size.mode is SharingMode.CORES:
        return profile.size.cores
    if told is None:
        simulated = spec.engine_kind == "simulated"
        wanted = GPU_ENGINE_CORES if most is None else min(GPU_ENGINE_CORES, most)
        return profile.size.cores if simulated else max(profile.size.cores, wanted)
    return max(profile.size.cores, math.ceil(told - SPARE_CORE_SHARE))


def host_memory(profile: Profile, spec: ModelSpec) -> Bytes:
    """Return an engine's host memory; 0 on a CPU device, where the footprint is host memory."""
    on_cpu = profile.size.mode is SharingMode.CORES
    return ZERO_BYTES if on_cpu or spec.engine_kind == "simulated" else ENGINE_HOST_BYTES
