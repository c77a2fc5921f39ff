"""Profiles to candidates: operating points with margins, several per partition size.

The SLO picks the operating point (`core.profile.operating_point`). Smaller batches that were
measured are candidates as well: they need less KV cache, and a model with little demand need not
pay for its knee. What another candidate beats in every respect is left out.
"""

import dataclasses
import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Final

from partitiond.core.footprint import BLOCK_TOKENS
from partitiond.core.hardware import HARDWARE, DeviceKind, SharingMode
from partitiond.core.partition import PartitionSize
from partitiond.core.plan import Candidate, ModelDemand
from partitiond.core.profile import (
    MEMORY_MARGIN,
    RATE_MARGIN,
    OperatingPoint,
    Profile,
    ProfileKind,
    capacity_req_per_s,
    operating_point,
)
from partitiond.core.roofline import BANDWIDTH_EFFICIENCY
from partitiond.core.spec import ModelSpec
from partitiond.core.units import MIB, Bytes, format_bytes

BATCH_STEP: Final = 4
"""Smaller points are kept at a quarter of the batch and again at a quarter of that: in between,
footprint and rate change too little to change a plan."""
POINTS_PER_SIZE: Final = 3
_RANK: Final = {ProfileKind.MEASURED: 0, ProfileKind.TRANSFERRED: 1, ProfileKind.ESTIMATED: 2}


def candidates_for(
    spec: ModelSpec, profiles: Sequence[Profile], device_hardware_keys: Collection[str]
) -> ModelDemand:
    """What the planner is asked for one model.

    Args:
        spec: the model.
        profiles: its profiles; of several for one hardware and size the surest, then the newest
            counts.
        device_hardware_keys: hardware of the devices there are.

    Returns:
        The demand; without candidates its `reason` says why.
    """
    mine = [p for p in profiles if p.model == spec.name]
    usable = _surest(p for p in mine if _is_for(p, spec) and p.hardware in device_hardware_keys)
    found = [c for profile in usable for c in _candidates(spec, profile)]
    return ModelDemand(
        model=spec.name,
        demand=spec.demand,
        candidates=tuple(_undominated(found)),
        min_replicas=spec.min_replicas,
        max_replicas=spec.max_replicas,
        isolation=spec.isolation,
        reason="" if found else _reason(spec, mine, usable, device_hardware_keys),
        slo=spec.slo,
    )


def _is_for(profile: Profile, spec: ModelSpec) -> bool:
    same_dtype = profile.dtype == spec.engine.dtype or "auto" in (profile.dtype, spec.engine.dtype)
    return profile.workload == spec.workload and same_dtype


def _surest(profiles: Iterable[Profile]) -> list[Profile]:
    """One profile for each hardware and partition size, in a stable order."""
    newest_first = sorted(profiles, key=lambda p: (p.provenance.started_at, p.id), reverse=True)
    best: dict[tuple[str, PartitionSize], Profile] = {}
    for profile in sorted(newest_first, key=lambda p: _RANK[p.kind]):
        best.setdefault((profile.hardware, profile.size), profile)
    return [best[key] for key in sorted(best)]


def _candidates(spec: ModelSpec, profile: Profile) -> Iterator[Candidate]:
    chosen = operating_point(profile, spec.slo)
    if chosen is None:
        return
    for point in _spread(profile, chosen):
        if chosen.req_per_s <= 0 or point.req_per_s <= 0:
            continue
        # A rate confirmed at the operating point scales with throughput at smaller batches.
        share = point.req_per_s / chosen.req_per_s
        capacity = capacity_req_per_s(profile, chosen) * share
        for size in _sizes(profile.size):
            yield _candidate(profile, point, size, capacity)


def _spread(profile: Profile, chosen: OperatingPoint) -> list[OperatingPoint]:
    """The operating point and a few smaller batches, which hold an SLO if it does."""
    found = [chosen]
    smaller = [p for p in profile.points if p.batch < chosen.batch and not p.kv_limited]
    for point in sorted(smaller, key=lambda p: -p.batch):
        if len(found) < POINTS_PER_SIZE and point.batch * BATCH_STEP <= found[-1].batch:
            found.append(point)
    return found


def _sizes(size: PartitionSize) -> tuple[PartitionSize, ...]:
    """A memory share that nobody shares is a whole device, and the other way round."""
    if size.mode in (SharingMode.WHOLE, SharingMode.MEMORY):
        modes = (SharingMode.WHOLE, SharingMode.MEMORY)
        return tuple(dataclasses.replace(size, mode=mode) for mode in modes)
    return (size,)


def _candidate(
    profile: Profile, point: OperatingPoint, size: PartitionSize, capacity: float
) -> Candidate:
    memory = point.footprint_bytes * (1 + MEMORY_MARGIN[profile.kind])
    return Candidate(
        model=profile.model,
        profile_id=profile.id,
        profile_kind=profile.kind,
        hardware=profile.hardware,
        size=size,
        batch=point.batch,
        memory_bytes=Bytes(math.ceil(memory / MIB) * MIB),
        kv_cache_bytes=_kv_cache_bytes(profile, point),
        capacity_req_per_s=capacity * (1 - RATE_MARGIN[profile.kind]),
        output_tokens_per_s=point.output_tokens_per_s,
        ttft_p95_seconds=point.ttft.p95,
        tpot_p95_seconds=point.tpot.p95,
        busy=busy_share(profile, point, size.mode),
    )


def _kv_cache_bytes(profile: Profile, point: OperatingPoint) -> Bytes:
    """Whole blocks for the tokens that the point needs."""
    on_cpu = profile.size.mode is SharingMode.CORES
    block = BLOCK_TOKENS[DeviceKind.CPU if on_cpu else DeviceKind.GPU]
    tokens = -(-point.kv_tokens // block) * block
    return Bytes(math.ceil(tokens * _kv_bytes_per_token(profile)))


def _kv_bytes_per_token(profile: Profile) -> float:
    return profile.footprint.kv_cache_bytes / max(1, profile.kv_cache_tokens)


def busy_share(profile: Profile, point: OperatingPoint, mode: SharingMode) -> float:
    """u of the definitions: the share of what the mode shares that the point takes alone.

    Time-sliced: 1, a replica at its operating point keeps the GPU busy. MPS: the memory traffic
    of its steps (weights once, the KV of every sequence) over what decoding reaches of the
    device's bandwidth. CPU cores: 0, there is no telemetry of their memory traffic.
    """
    if mode is SharingMode.CORES:
        return 0.0
    hardware = HARDWARE.get(profile.hardware)
    if mode is not SharingMode.MPS or hardware is None or point.output_tokens_per_s <= 0:
        return 1.0
    context = profile.workload.prompt_tokens + profile.workload.output_tokens / 2
    per_step = profile.footprint.weights_bytes
    traffic = per_step + point.batch * context * _kv_bytes_per_token(profile)
    steps_per_s = point.output_tokens_per_s / point.batch
    reached = hardware.bandwidth_bytes_per_s * BANDWIDTH_EFFICIENCY
    return min(1.0, traffic * steps_per_s / reached)


def _undominated(found: list[Candidate]) -> list[Candidate]:
    return [
        c
        for n, c in enumerate(found)
        if not any(_beats(other, c, m < n) for m, other in enumerate(found) if m != n)
    ]


def _beats(one: Candidate, other: Candidate, first: bool) -> bool:
    """Whether `one` needs no more and gives no less; of equals the first one stays."""
    if (one.hardware, one.size.mode, one.size.mig_profile) != (
        other.hardware,
        other.size.mode,
        other.size.mig_profile,
    ):
        return False
    needs = [
        (one.memory_bytes, other.memory_bytes),
        (one.size.cores, other.size.cores),
        (one.size.sm_percent, other.size.sm_percent),
        (one.busy, other.busy),
        (one.host_memory_bytes, other.host_memory_bytes),
        (-one.capacity_req_per_s, -other.capacity_req_per_s),
        (one.ttft_p95_seconds, other.ttft_p95_seconds),
        (one.tpot_p95_seconds, other.tpot_p95_seconds),
    ]
    return all(a <= b for a, b in needs) and (first or any(a < b for a, b in needs))


def _reason(
    spec: ModelSpec, mine: list[Profile], usable: list[Profile], keys: Collection[str]
) -> str:
    if not mine:
        return "it has no profile yet"
    if not usable:
        there = sorted({f"{p.hardware} at {p.workload.key} tokens in {p.dtype}" for p in mine})
        return (
            f"it has no profile for {spec.workload.key} tokens in {spec.engine.dtype} on "
            f"{', '.join(sorted(keys)) or 'any device'}; there is one for {'; '.join(there)}"
        )
    if not any(p.points for p in usable):
        least = min(p.footprint.peak_bytes for p in usable)
        return (
            f"not one request fits: it needs {format_bytes(least)} of memory, more than "
            f"{usable[0].hardware} has free"
        )
    if spec.slo is not None:
        fastest = min((pt for p in usable for pt in p.points), key=lambda pt: pt.tpot.p95)
        return (
            f"no operating point holds its SLO of TTFT {spec.slo.ttft_seconds:g} s and TPOT "
            f"{spec.slo.tpot_seconds:g} s; the fastest has {fastest.ttft.p95:.3g} s and "
            f"{fastest.tpot.p95:.3g} s"
        )
    return "no operating point of its profiles can be used"
