"""Computes how many replicas a device holds, and their joint rate, from an estimate alone.

This is the interference model of the definitions, with one replica's use of each shared resource
read off the roofline: time-sliced it is the time that the device works; under MPS, arithmetic and
memory traffic are separate, so replicas fill what others leave. MIG slices and CPU cores share
nothing here. Latencies grow by the factor by which rates shrink; the SLO is checked after that.
"""

import dataclasses
from collections.abc import Iterator, Sequence

from partitiond.core.hardware.kinds import HardwareSpec, SharingMode
from partitiond.core.hardware.lookup import mig_profile
from partitiond.core.hardware.partition import PartitionSize
from partitiond.core.model.spec import Slo
from partitiond.core.performance.interference import (
    MAX_REPLICAS_PER_DEVICE,
    mode_overhead_bytes,
)
from partitiond.core.performance.interference import (
    sigma as sigma_beside,
)
from partitiond.core.performance.rounds import RoundTerms
from partitiond.core.performance.transfer_fit import Subject
from partitiond.core.profile.points import Latency, OperatingPoint
from partitiond.core.profile.record import Profile, held_points, holds_slo
from partitiond.core.units import Bytes


@dataclasses.dataclass(frozen=True, slots=True)
class Replication:
    """A number of equal replicas on one device.

    Attributes:
        mode: how they share the device.
        replicas: how many.
        batch: requests in flight at each.
        req_per_s: of all together, closed loop.
        output_tokens_per_s: of all together.
        ttft_p95_seconds, tpot_p95_seconds: of each, beside the others.
        footprint_bytes: of each.
        sigma: factor by which the others slow each replica down.
    """

    mode: SharingMode
    replicas: int
    batch: int
    req_per_s: float
    output_tokens_per_s: float
    ttft_p95_seconds: float
    tpot_p95_seconds: float
    footprint_bytes: Bytes
    sigma: float


def replicas_that_fit(
    hardware: HardwareSpec,
    size: PartitionSize,
    mode: SharingMode,
    point: OperatingPoint,
    budget_bytes: int,
) -> int:
    """Return the number of replicas at this point that a device holds in a mode: by its memory,
    and by its slices, SMs or cores.

    Args:
        size: of each; one without SMs or slices of its own shares the device as `mode` says.
        budget_bytes: memory for all footprints on the device; of one slice for a MIG profile.
    """
    if mode is SharingMode.MIG:
        return mig_profile(hardware, size.mig_profile).max_instances
    most = MAX_REPLICAS_PER_DEVICE[mode]
    if size.mode is SharingMode.CORES:
        most = hardware.cores // size.cores
    elif size.mode is SharingMode.MPS:
        most = 100 // size.sm_percent
    left = budget_bytes - mode_overhead_bytes(mode)
    return max(0, min(most, left // point.footprint_bytes))


def sigma_of(terms: RoundTerms, round_seconds: float, replicas: int, mode: SharingMode) -> float:
    """Return the factor by which `replicas` equal ones on one device slow each other down; 1 if
    alone.
    """
    if mode not in {SharingMode.MEMORY, SharingMode.MPS}:
        return 1.0
    if mode is SharingMode.MPS:
        busy = max(terms.compute, terms.weights + terms.kv) / round_seconds
    else:
        busy = terms.busy_seconds / round_seconds  # kernels of different processes never overlap
    return sigma_beside(mode, [min(1.0, busy)] * replicas)


def slowed(point: OperatingPoint, sigma: float) -> OperatingPoint:
    """Return the point beside other replicas: rates are divided by sigma, TTFT and TPOT
    multiplied.
    """

    def longer(latency: Latency) -> Latency:
        return Latency(
            sigma * latency.mean, sigma * latency.p50, sigma * latency.p95, sigma * latency.p99
        )

    return dataclasses.replace(
        point,
        output_tokens_per_s=point.output_tokens_per_s / sigma,
        req_per_s=point.req_per_s / sigma,
        ttft=longer(point.ttft),
        tpot=longer(point.tpot),
    )


def replications(
    profile: Profile, subject: Subject, budget_bytes: int, slo: Slo | None
) -> tuple[Replication, ...]:
    """Return the best way to run 1, 2, 3 ... replicas on one device within the SLO.

    For each number this is the mode and batch with the most requests/s. Numbers that fit in no way
    are left out.

    Args:
        profile: estimated for the whole device, or for one MIG slice or set of cores.
        subject: the subject of the profile.
        budget_bytes: memory for all footprints on the device; of one slice for a MIG profile.
        slo: bounds, or None if throughput alone counts.
    """
    best: dict[int, Replication] = {}
    for found in _all(profile, subject, budget_bytes, slo):
        known = best.get(found.replicas)
        if known is None or found.req_per_s > known.req_per_s:
            best[found.replicas] = found
    return tuple(best[n] for n in sorted(best))


def best_replication(found: Sequence[Replication]) -> Replication | None:
    """Return the replication with the most requests/s; of equal ones the one with fewest
    replicas.
    """
    return max(found, key=lambda r: (r.req_per_s, -r.replicas), default=None)


def _all(
    profile: Profile, subject: Subject, budget_bytes: int, slo: Slo | None
) -> Iterator[Replication]:
    for point in held_points(profile, slo):
        terms = subject.terms(point.batch)
        seconds = point.batch / point.output_tokens_per_s
        for mode in _modes(subject.hardware, profile.size):
            fits = replicas_that_fit(subject.hardware, profile.size, mode, point, budget_bytes)
            for count in range(1, fits + 1):
                sigma = sigma_of(terms, seconds, count, mode)
                beside = slowed(point, sigma)
                if slo is not None and not holds_slo(beside, slo):
                    break  # sigma only grows with the number
                yield _replication(mode, count, beside, sigma)


def _modes(hardware: HardwareSpec, size: PartitionSize) -> tuple[SharingMode, ...]:
    """Return the modes that put replicas of this partition size on a device."""
    if size.mode in (SharingMode.WHOLE, SharingMode.MEMORY):
        shared = (SharingMode.MEMORY, SharingMode.MPS)
        return tuple(mode for mode in shared if mode in hardware.modes)
    return (size.mode,)


def _replication(
    mode: SharingMode, count: int, beside: OperatingPoint, sigma: float
) -> Replication:
    return Replication(
        mode=mode
        if count > 1 or mode in {SharingMode.MIG, SharingMode.CORES}
        else SharingMode.WHOLE,
        replicas=count,
        batch=beside.batch,
        req_per_s=count * beside.req_per_s,
        output_tokens_per_s=count * beside.output_tokens_per_s,
        ttft_p95_seconds=beside.ttft.p95,
        tpot_p95_seconds=beside.tpot.p95,
        footprint_bytes=beside.footprint_bytes,
        sigma=sigma,
    )
