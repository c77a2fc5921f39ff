"""Explains the measured footprint by its terms, and computes what each batch needs of it."""

import dataclasses

from partitiond.core.hardware.kinds import DeviceKind
from partitiond.core.model.architecture import Architecture
from partitiond.core.model.workload import LengthShape, Workload
from partitiond.core.performance.footprint import EngineLimits, footprint
from partitiond.core.profile.points import Footprint
from partitiond.core.units import Bytes


def explain_footprint(
    architecture: Architecture,
    limits: EngineLimits,
    kind: DeviceKind,
    *,
    started_kv_bytes: int,
    peak_bytes: int,
) -> Footprint:
    """Return the measured peak, with the terms that explain it and the rest that they leave.

    W and K are exact; A, G and C are models (`core.performance.footprint`), so the rest may be
    negative. On a CPU it may also be negative because the part of K that was never written is not
    resident.
    """
    terms = footprint(architecture, limits, started_kv_bytes, kind)
    return dataclasses.replace(
        terms,
        peak_bytes=Bytes(peak_bytes),
        unexplained_bytes=peak_bytes - terms.peak_bytes,
    )


def resident_kv_bytes(
    architecture: Architecture,
    kind: DeviceKind,
    *,
    started_kv_bytes: int,
    largest_batch: int,
    workload: Workload,
) -> int:
    """Return KV bytes that are certainly inside the measured peak.

    On a GPU the whole cache is allocated at start. On a CPU it is reserved, and a page becomes
    resident when it is first written; without prefix caching the engine reuses free blocks last in,
    first out, so only what the largest batch held at once was ever written: every request at its
    full length, or, if lengths vary, at least what it holds on average.
    """
    if kind is DeviceKind.GPU:
        return started_kv_bytes
    held = float(workload.total_tokens)
    if workload.shape is not LengthShape.FIXED:
        held = workload.moments.occupancy_mean
    return min(started_kv_bytes, round(largest_batch * architecture.kv_bytes(held)))


def point_footprint(peak_bytes: int, resident: int, needed_kv_bytes: int) -> Bytes:
    """Return the footprint at an operating point: peak - K resident + K needed.

    One engine start serves all batches, with a KV cache for the largest. The bytes that are
    certainly KV cache are taken off the measured peak, and all that batch b needs are put in their
    place: an engine that runs long enough writes all of its cache. The rest (weights, context,
    activations and what nothing explains) stays as it was at the peak of the largest batch, which
    is too much rather than too little.
    """
    return Bytes(max(0, peak_bytes - resident) + needed_kv_bytes)
