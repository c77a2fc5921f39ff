"""Profiles to candidates: operating points with margins, several per partition size.

The model's operating point (by default the knee, or the largest batch up to it that holds the SLO)
is what a replica runs at. Smaller batches that were measured are candidates as well: they need
less KV cache, and a model with little demand need not pay for its knee. What another candidate
beats in every respect is left out.

A profile counts only for what it was measured for: the model's own form or a variant that the
spec lists, its workload, its engine options. How much of a device's shared resource a replica
takes, and what each further replica costs, come from the profile's replication runs where it has
any.
"""

import dataclasses
import math
import operator
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Final

from partitiond.core.drift_follow import factor_for
from partitiond.core.footprint import BLOCK_TOKENS, MAX_NUM_BATCHED_TOKENS
from partitiond.core.hardware import HARDWARE, DeviceKind, SharingMode
from partitiond.core.interference import planned_kappa
from partitiond.core.operating_points import named_point
from partitiond.core.partition import PartitionSize
from partitiond.core.plan import Candidate, ModelDemand
from partitiond.core.profile import (
    MEMORY_MARGIN,
    OperatingPoint,
    Profile,
    ProfileKind,
    capacity_req_per_s,
    operating_point,
    rate_margin,
)
from partitiond.core.releases import release_of
from partitiond.core.roofline import BANDWIDTH_EFFICIENCY
from partitiond.core.spec import EngineOptions, ModelSpec, PointName
from partitiond.core.transfer_fit import engine_argument
from partitiond.core.units import MIB, Bytes, format_bytes
from partitiond.planner.asleep import asleep, can_sleep_there
from partitiond.planner.corrections import corrected
from partitiond.planner.draw import host_cores, host_memory, planned_watts

BATCH_STEP: Final = 4
"""Smaller points are kept at a quarter of the batch and again at a quarter of that: in between,
footprint and rate change too little to change a plan."""
POINTS_PER_SIZE: Final = 3
_RANK: Final = {ProfileKind.MEASURED: 0, ProfileKind.TRANSFERRED: 1, ProfileKind.ESTIMATED: 2}

StaleReasons = Mapping[str, tuple[str, ...]]
"""Why a profile no longer speaks for what runs now, by profile id."""
Corrections = Mapping[str, float]
"""Factor on a profile's rates, by profile id."""


def candidates_for(
    spec: ModelSpec,
    profiles: Sequence[Profile],
    device_hardware_keys: Collection[str],
    stale: StaleReasons | None = None,
    corrections: Corrections | None = None,
) -> ModelDemand:
    """What the planner is asked for one model.

    Args:
        spec: the model.
        profiles: its profiles; of several for one hardware, size and form the surest, then the
            newest counts.
        device_hardware_keys: hardware of the devices there are.
        stale: profiles to be doubted; they are planned with the margins of transferred ones.
        corrections: factor by profile id where its replicas were seen to be slower.

    Returns:
        The demand; without candidates its `reason` says why.
    """
    mine = [p for p in profiles if p.model == spec.name]
    usable = _surest(p for p in mine if is_for(p, spec) and p.hardware in device_hardware_keys)
    doubts = stale or {}
    found = [
        corrected(c, factor_for(corrections or {}, p.id))
        for p in usable
        for c in _candidates(spec, p, doubts.get(p.id, ()))
    ]
    return ModelDemand(
        model=spec.name,
        demand=spec.demand,
        candidates=tuple(_undominated(found)),
        min_replicas=spec.min_replicas,
        max_replicas=spec.max_replicas,
        isolation=spec.isolation,
        reason="" if found else _reason(spec, mine, usable, device_hardware_keys),
        slo=spec.slo,
        rules=spec.rules,
        allow_outage=spec.allow_outage,
    )


def is_for(profile: Profile, spec: ModelSpec) -> bool:
    """Whether the profile was measured for what the spec asks for.

    That is a form of the model it lists, its workload, and the engine options that the form
    is started with. Profiles of other lengths, step sizes, KV precisions, or of constrained
    answers tell how the frontier moves; plans never rest on them.
    """
    if profile.model != spec.name or profile.structured_output:
        return False
    if profile.variant and profile.variant not in {v.name for v in spec.variants}:
        return False
    engine = spec.as_variant(profile.variant).engine
    return profile.workload == spec.workload and measured_with(profile, engine)


def measured_with(profile: Profile, engine: EngineOptions) -> bool:
    """Whether these engine options are those of the profile, as far as they move the frontier."""
    # Files of schema 1 do not name their step size: everything then was measured at the default.
    default = MAX_NUM_BATCHED_TOKENS
    steps = (profile.max_num_batched_tokens or default, engine.max_num_batched_tokens or default)
    return (
        (profile.dtype == engine.dtype or "auto" in (profile.dtype, engine.dtype))
        and profile.kv_cache_dtype == engine.kv_cache_dtype
        and loaded_as(profile) == engine.quantization
        and steps[0] == steps[1]
    )


def loaded_as(profile: Profile) -> str:
    """What the engine did, or would do, to the weights while loading them; empty for nothing."""
    return engine_argument(profile, "--quantization") or ""


def _surest(profiles: Iterable[Profile]) -> list[Profile]:
    """One profile for each hardware, partition size and form, in a stable order.

    Where anything was measured on some hardware, estimates of other forms for that hardware are
    left out: a plan should not prefer a guess to the truth because the guess is the kinder one.
    """
    newest_first = sorted(profiles, key=lambda p: (p.provenance.started_at, p.id), reverse=True)
    best: dict[tuple[str, PartitionSize, str], Profile] = {}
    for profile in sorted(newest_first, key=lambda p: _RANK[p.kind]):
        best.setdefault((profile.hardware, profile.size, profile.variant), profile)
    real = {(p.hardware, p.variant) for p in best.values() if p.kind is not ProfileKind.ESTIMATED}
    known = {hardware for hardware, _ in real}
    return [
        p
        for key in sorted(best)
        for p in (best[key],)
        if p.kind is not ProfileKind.ESTIMATED
        or p.hardware not in known
        or (p.hardware, p.variant) in real
    ]


def _candidates(spec: ModelSpec, profile: Profile, stale: tuple[str, ...]) -> Iterator[Candidate]:
    if not can_sleep_there(spec, profile):
        return
    chosen = named_point(profile, spec.operating_point, spec.slo)
    # What was measured of something else by now is no surer than what was transferred.
    kind = max(profile.kind, ProfileKind.TRANSFERRED, key=_RANK.__getitem__)
    margins = kind if stale else profile.kind
    for point in () if chosen is None else _spread(profile, chosen, spec):
        capacity = _planned_req_per_s(profile, point, spec)
        if capacity <= 0:
            continue
        footprint, kv_cache = _memory(profile, point)
        planned = dataclasses.replace(profile.size, cores=host_cores(profile, point))
        for size in _sizes(planned):
            yield Candidate(
                model=profile.model,
                profile_id=profile.id,
                profile_kind=profile.kind,
                hardware=profile.hardware,
                size=size,
                batch=point.batch,
                memory_bytes=Bytes(math.ceil(footprint * (1 + MEMORY_MARGIN[margins]) / MIB) * MIB),
                kv_cache_bytes=kv_cache,
                capacity_req_per_s=capacity * (1 - rate_margin(profile, margins)),
                output_tokens_per_s=point.output_tokens_per_s,
                ttft_p95_seconds=point.ttft.p95,
                tpot_p95_seconds=point.tpot.p95,
                busy=busy_share(profile, point, size.mode),
                kappa=measured_kappa(profile, size.mode),
                variant=profile.variant,
                stale=stale,
                watts=planned_watts(profile, point),
                weights_bytes=profile.footprint.weights_bytes,
                host_memory_bytes=host_memory(profile, spec),
                asleep=asleep(profile, spec),
                release=release_of(spec.as_variant(profile.variant)),
            )


def _planned_req_per_s(profile: Profile, point: OperatingPoint, spec: ModelSpec) -> float:
    """Requests/s one replica is planned to take at `point`, before margins.

    What is known of one batch is `core.profile.capacity_req_per_s`. From the batch that open-loop
    trials were made at it is scaled by throughput to others. A rate that was held counts at larger
    batches as it is; more than it only as far as 0.8 X / E[O] does.
    """
    known = profile.capacity_req_per_s is not None
    tried = _tried_point(profile, spec) if known or profile.capacity_trials else None
    if tried is None or tried.req_per_s <= 0:
        return capacity_req_per_s(profile, point)
    at_tried = capacity_req_per_s(profile, tried)
    if known and point.batch > tried.batch:
        return max(at_tried, capacity_req_per_s(profile, point))
    return at_tried * point.req_per_s / tried.req_per_s


def _tried_point(profile: Profile, spec: ModelSpec) -> OperatingPoint | None:
    """The point whose capacity was looked for: that of its trials, else the default one.

    Trials may have been made at several batches: what was held last goes before what was not.
    """
    batches = [trial.batch for trial in profile.capacity_trials]
    batches += [trial.batch for trial in profile.capacity_trials if trial.held]
    return profile.point(batches[-1]) if batches else operating_point(profile, spec.slo)


def _spread(profile: Profile, chosen: OperatingPoint, spec: ModelSpec) -> list[OperatingPoint]:
    """The operating point and a few smaller batches.

    Smaller batches hold an SLO if it does. A point that was asked for by name is what it is for
    its own sake (the least energy, say), so it stands alone.
    """
    found = [chosen]
    if spec.operating_point in (PointName.ENERGY, PointName.THROUGHPUT):
        return found
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


def _memory(profile: Profile, point: OperatingPoint) -> tuple[int, Bytes]:
    """Footprint and KV cache of the point, in bytes: as a start confirmed them, or by the model."""
    confirmed = profile.frontier_memory
    if confirmed is not None and confirmed.confirmed and confirmed.batch == point.batch:
        return confirmed.footprint_bytes, confirmed.kv_cache_bytes
    on_cpu = profile.size.mode is SharingMode.CORES
    block = BLOCK_TOKENS[DeviceKind.CPU if on_cpu else DeviceKind.GPU]
    tokens = -(-point.kv_tokens // block) * block  # whole blocks
    return point.footprint_bytes, Bytes(math.ceil(tokens * _kv_bytes_per_token(profile)))


def _kv_bytes_per_token(profile: Profile) -> float:
    return profile.footprint.kv_cache_bytes / max(1, profile.kv_cache_tokens)


def measured_kappa(profile: Profile, mode: SharingMode) -> float | None:
    """Loss per further replica in a mode, as measured for this profile; None where it was not."""
    if mode is SharingMode.MIG:
        return None
    sharing = next((s for s in profile.sharing if s.mode == mode.value), None)
    return planned_kappa(sharing) if sharing is not None else None


def busy_share(profile: Profile, point: OperatingPoint, mode: SharingMode) -> float:
    """u of the definitions: the share of what the mode shares that the point takes alone.

    From the profile's replication runs where it has any. Else, time-sliced: 1, a replica at its
    operating point keeps the GPU busy. MPS: the memory traffic of its steps (weights once, the KV
    of every sequence) over what decoding reaches of the device's bandwidth. CPU cores: 0, there
    is no telemetry of their memory traffic, and the margins have to cover it. A MIG instance
    shares nothing of the device: 0. The host's cores are given to one engine each.
    """
    if mode is SharingMode.MIG:
        return 0.0
    sharing = next((s for s in profile.sharing if s.mode == mode.value and s.runs), None)
    if sharing is not None:
        return min(1.0, sharing.busy)
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
    """Candidates that need no more and give no less than others; of equals the first one stays."""
    alike: dict[object, list[int]] = {}
    for n, c in enumerate(found):
        # A measured kappa (or power) and one that is not known are compared by the planner.
        known = (c.kappa is None, c.watts is None)
        alike.setdefault((c.hardware, c.size.mode, c.size.mig_profile, known), []).append(n)
    rows = [_needs(c) for c in found]
    kept = [
        n
        for mine in alike.values()
        for n in mine
        if not any(
            all(map(operator.le, rows[m], rows[n])) and (m < n or rows[m] != rows[n])
            for m in mine
            if m != n
        )
    ]
    return [found[n] for n in sorted(kept)]


def _needs(c: Candidate) -> tuple[float, ...]:
    """What it needs and lacks, each the less the better."""
    return (
        -c.capacity_req_per_s, c.memory_bytes, c.size.cores, c.size.sm_percent, c.busy,
        c.kappa or 0.0, c.host_memory_bytes, c.watts or 0.0,
        c.ttft_p95_seconds, c.tpot_p95_seconds,
    )  # fmt: skip


def _reason(
    spec: ModelSpec, mine: list[Profile], usable: list[Profile], keys: Collection[str]
) -> str:
    if not mine:
        return "it has no profile yet"
    if not usable:
        there = sorted({_made_for(p) for p in mine})
        how = f" loaded as {spec.engine.quantization}" if spec.engine.quantization else ""
        return (
            f"it has no profile for {spec.workload.key} tokens in {spec.engine.dtype}{how} on "
            f"{', '.join(sorted(keys)) or 'any device'}; there is one for {'; '.join(there)}"
        )
    if not any(can_sleep_there(spec, p) for p in usable):
        return (
            "it asks for sleep mode, which vLLM does not have on a CPU; switch the engine option "
            "sleep_mode off, or give it a GPU"
        )
    if not any(p.points for p in usable):
        least = min(p.footprint.peak_bytes for p in usable)
        return (
            f"not one request fits: it needs {format_bytes(least)} of memory, more than "
            f"{usable[0].hardware} has free"
        )
    if spec.operating_point is PointName.ENERGY and all(
        point.joules_per_output_token is None for p in usable for point in p.points
    ):
        return (
            "it asks for the point of least energy, and no energy was exposed when it was measured"
        )
    if spec.slo is not None:
        fastest = min((pt for p in usable for pt in p.points), key=lambda pt: pt.tpot.p95)
        return (
            f"no operating point holds its SLO of TTFT {spec.slo.ttft_seconds:g} s and TPOT "
            f"{spec.slo.tpot_seconds:g} s; the fastest has {fastest.ttft.p95:.3g} s and "
            f"{fastest.tpot.p95:.3g} s"
        )
    return "no operating point of its profiles can be used"


def _made_for(profile: Profile) -> str:
    """What a profile that cannot be used was made for, as far as it differs from the usual."""
    extras = [
        f"variant {profile.variant}" if profile.variant else "",
        f"weights loaded as {loaded_as(profile)}" if loaded_as(profile) else "",
        f"a {profile.kv_cache_dtype} KV cache" if profile.kv_cache_dtype != "auto" else "",
        (
            f"steps of {profile.max_num_batched_tokens} tokens"
            if profile.max_num_batched_tokens not in (None, MAX_NUM_BATCHED_TOKENS)
            else ""
        ),
        "answers constrained to a schema" if profile.structured_output else "",
    ]
    more = "".join(f", {extra}" for extra in extras if extra)
    return f"{profile.hardware} at {profile.workload.key} tokens in {profile.dtype}{more}"
