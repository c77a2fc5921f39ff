"""Makes candidates of profiles: operating points with margins, several per partition size.

A replica runs at the model's operating point (by default the knee, or the largest batch up to it
that holds the SLO). Smaller measured batches are candidates as well: they need less KV cache, so a
model with little demand need not pay for its knee. Those that others beat where they could be
used are left out by `dominated`.

A profile counts only for what it was measured for: the model's own form or a variant that the
spec lists, its workload, its engine options. The share of a device's shared resource that a replica
takes, and the cost of each further replica, come from the profile's replication runs if it has
any.
"""

import dataclasses
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Final

from partitiond import __version__
from partitiond.core.drift.correction import factor_for
from partitiond.core.hardware.gpus import HARDWARE
from partitiond.core.hardware.kinds import DeviceKind, SharingMode
from partitiond.core.hardware.partition import PartitionSize
from partitiond.core.model.spec import EngineOptions, ModelSpec, PointName
from partitiond.core.performance.footprint import (
    BLOCK_TOKENS,
    MAX_NUM_BATCHED_TOKENS,
    sleeping_footprint,
)
from partitiond.core.performance.interference import planned_kappa
from partitiond.core.performance.roofline import BANDWIDTH_EFFICIENCY
from partitiond.core.performance.transfer_fit import engine_argument
from partitiond.core.plan.record import Candidate, ModelDemand, Placement
from partitiond.core.profile.operating_points import named_point
from partitiond.core.profile.points import OperatingPoint, SleepingFootprint
from partitiond.core.profile.record import (
    MEMORY_MARGIN,
    Profile,
    ProfileKind,
    capacity_req_per_s,
    operating_point,
    rate_margin,
)
from partitiond.core.replica.releases import release_of
from partitiond.core.units import MIB, Bytes, format_bytes
from partitiond.planner.model.draw import host_cores, host_memory, planned_watts

BATCH_STEP: Final = 4
"""Smaller points are kept at a quarter of the batch and again at a quarter of that: in between,
footprint and rate change too little to change a plan. Assumed, not measured."""
POINTS_PER_SIZE: Final = 3
_RANK: Final = {ProfileKind.MEASURED: 0, ProfileKind.TRANSFERRED: 1, ProfileKind.ESTIMATED: 2}

StaleReasons = Mapping[str, tuple[str, ...]]
"""Reasons why a profile is stale, by profile id."""
Corrections = Mapping[str, float]
"""Factor on a profile's rates, by profile id."""


def candidates_for(
    spec: ModelSpec,
    profiles: Sequence[Profile],
    device_hardware_keys: Collection[str],
    stale: StaleReasons | None = None,
    corrections: Corrections | None = None,
    *,
    most_cores: Mapping[str, int] | None = None,
) -> ModelDemand:
    """Return what the planner is asked for one model.

    Args:
        spec: the model.
        profiles: its profiles. Of several for one hardware, size and form, the most reliable kind
            counts, then the newest.
        device_hardware_keys: hardware of the devices present.
        stale: profiles in doubt; they are planned with the margins of transferred profiles.
        corrections: factor by profile id for profiles whose replicas were observed to be slower.
        most_cores: host cores of the GPU with most of them, by hardware; absent where not known.

    Returns:
        The demand; if it has no candidates, its `reason` says why.
    """
    mine = [p for p in profiles if p.model == spec.name]
    usable = _surest(
        p
        for p in of_wanted_dtype(spec, mine)
        if is_for(p, spec) and p.hardware in device_hardware_keys
    )
    doubts = stale or {}
    found = [
        corrected(c, factor_for(corrections or {}, p.id))
        for p in usable
        for c in _candidates(spec, p, doubts.get(p.id, ()), (most_cores or {}).get(p.hardware))
    ]
    reason = "" if found else _reason(spec, mine, usable, device_hardware_keys)
    return asked(
        ModelDemand(spec.name, spec.demand, tuple(found), reason=reason, slo=spec.slo), spec
    )


def asked(demand: ModelDemand, spec: ModelSpec) -> ModelDemand:
    """Return the same candidates with the spec's present demand and rules."""
    return dataclasses.replace(
        demand,
        demand=spec.demand,
        min_replicas=spec.min_replicas,
        max_replicas=spec.max_replicas,
        isolation=spec.isolation,
        rules=spec.rules,
        allow_outage=spec.allow_outage,
        isolation_group=spec.isolation_group,
    )


def of_wanted_dtype(spec: ModelSpec, profiles: Iterable[Profile]) -> list[Profile]:
    """Return the profiles without those in another type than `auto` stands for on their hardware.

    This release's estimate of the same form there says which type that is; else each counts.
    """
    found = list(profiles)
    by_auto = {"", *(v.name for v in spec.variants if v.engine.dtype == "auto")}
    by_auto -= {""} if spec.engine.dtype != "auto" else set()
    meant = {
        (p.hardware, p.variant): p.dtype
        for p in found
        if p.kind is ProfileKind.ESTIMATED
        and p.variant in by_auto
        and p.provenance.partitiond_version == __version__
    }
    return [p for p in found if p.dtype in ("auto", meant.get((p.hardware, p.variant), p.dtype))]


def is_for(profile: Profile, spec: ModelSpec) -> bool:
    """Return whether the profile was measured for what the spec asks for.

    That is a form of the model that the spec lists, its workload, and the engine options that the
    form is started with. Profiles of other lengths, step sizes, KV precisions, or of constrained
    answers tell how the frontier moves; plans are never based on them.
    """
    if profile.model != spec.name or profile.structured_output:
        return False
    if profile.variant and profile.variant not in {v.name for v in spec.variants}:
        return False
    engine = spec.as_variant(profile.variant).engine
    return profile.workload == spec.workload and measured_with(profile, engine)


def measured_with(profile: Profile, engine: EngineOptions) -> bool:
    """Return whether these engine options match the profile's, as far as they move the frontier."""
    # Files of schema 1 do not name their step size: all were measured at the default.
    default = MAX_NUM_BATCHED_TOKENS
    steps = (profile.max_num_batched_tokens or default, engine.max_num_batched_tokens or default)
    return (
        (profile.dtype == engine.dtype or "auto" in (profile.dtype, engine.dtype))
        and profile.kv_cache_dtype == engine.kv_cache_dtype
        and loaded_as(profile) == engine.quantization
        and steps[0] == steps[1]
    )


def loaded_as(profile: Profile) -> str:
    """Return the quantization applied to the weights while loading them; empty for none."""
    return engine_argument(profile, "--quantization") or ""


def _surest(profiles: Iterable[Profile]) -> list[Profile]:
    """Return one profile for each hardware, partition size and form, in a stable order.

    If anything was measured on some hardware, estimates of other forms for that hardware are left
    out: a plan should not prefer an estimate to a measurement because the estimate is higher.
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


def _candidates(
    spec: ModelSpec, profile: Profile, stale: tuple[str, ...], most_cores: int | None
) -> Iterator[Candidate]:
    if not (can_sleep_there(spec, profile) and has_native_dtype(profile)):
        return
    chosen = named_point(profile, spec.operating_point, spec.slo)
    # A measurement of something that has changed since is no more reliable than a transfer.
    kind = max(profile.kind, ProfileKind.TRANSFERRED, key=_RANK.__getitem__)
    margins = kind if stale else profile.kind
    for point in () if chosen is None else _spread(profile, chosen, spec):
        capacity = _planned_req_per_s(profile, point, spec)
        if capacity <= 0:
            continue
        footprint, kv_cache = _memory(profile, point)
        planned = dataclasses.replace(
            profile.size, cores=host_cores(profile, point, spec, most_cores)
        )
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
                dtype=profile.dtype,
                host_memory_bytes=host_memory(profile, spec),
                asleep=asleep(profile, spec),
                release=release_of(spec.as_variant(profile.variant)),
            )


def _planned_req_per_s(profile: Profile, point: OperatingPoint, spec: ModelSpec) -> float:
    """Return the requests/s one replica is planned to take at `point`, before margins.

    `core.profile.capacity_req_per_s` gives the rate of one batch. The rate at the batch of the
    open-loop trials is scaled by throughput to other batches. A rate that was held counts at larger
    batches unchanged; a higher rate counts only as far as 0.8 X / E[O] allows.
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
    """Return the point whose capacity was tested: that of its trials, else the default point.

    Trials may cover several batches: the last one that held comes before those that did not.
    """
    batches = [trial.batch for trial in profile.capacity_trials]
    batches += [trial.batch for trial in profile.capacity_trials if trial.held]
    return profile.point(batches[-1]) if batches else operating_point(profile, spec.slo)


def _spread(profile: Profile, chosen: OperatingPoint, spec: ModelSpec) -> list[OperatingPoint]:
    """Return the operating point and a few smaller batches.

    Smaller batches hold an SLO if the operating point does. A point that was requested by name for
    its own sake (the least energy, say) stands alone.
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
    """Return the size, and its twin: an unshared memory share equals a whole device."""
    if size.mode in (SharingMode.WHOLE, SharingMode.MEMORY):
        modes = (SharingMode.WHOLE, SharingMode.MEMORY)
        return tuple(dataclasses.replace(size, mode=mode) for mode in modes)
    return (size,)


def _memory(profile: Profile, point: OperatingPoint) -> tuple[int, Bytes]:
    """Return the point's footprint and KV cache, in bytes: confirmed by a start, or computed."""
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
    """Return the measured loss per further replica in a mode; None if it was not measured."""
    if mode is SharingMode.MIG:
        return None
    sharing = next((s for s in profile.sharing if s.mode == mode.value), None)
    return planned_kappa(sharing) if sharing is not None else None


def busy_share(profile: Profile, point: OperatingPoint, mode: SharingMode) -> float:
    """Return u of the definitions: the share of what the mode shares that the point takes alone.

    It comes from the profile's replication runs if it has any. Otherwise, time-sliced: the share of
    time in which a kernel ran, or may have by the estimate; 1 where neither is known, or none is
    said to have run while it served. MPS: the memory traffic of its steps (weights once, the KV of
    every sequence) over the share of the device's bandwidth that decoding reaches. CPU cores: 0, as
    no telemetry shows their memory traffic; the margins have to cover it. A MIG instance: 0, as it
    shares nothing of the device. Each host core is given to only one engine.
    """
    if mode is SharingMode.MIG:
        return 0.0
    sharing = next((s for s in profile.sharing if s.mode == mode.value and s.runs), None)
    if sharing is not None:
        return min(1.0, sharing.busy)
    if mode is SharingMode.CORES:
        return 0.0
    if mode is SharingMode.MEMORY and point.telemetry and point.telemetry.gpu_util:
        return min(1.0, point.telemetry.gpu_util)
    hardware = HARDWARE.get(profile.hardware)
    if mode is not SharingMode.MPS or hardware is None or point.output_tokens_per_s <= 0:
        return 1.0
    context = profile.workload.prompt_tokens + profile.workload.output_tokens / 2
    per_step = profile.footprint.weights_bytes
    traffic = per_step + point.batch * context * _kv_bytes_per_token(profile)
    steps_per_s = point.output_tokens_per_s / point.batch
    reached = hardware.bandwidth_bytes_per_s * BANDWIDTH_EFFICIENCY
    return min(1.0, traffic * steps_per_s / reached)


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
    if not any(has_native_dtype(p) for p in usable):
        return (
            f"it asks for {usable[0].dtype}, which {usable[0].hardware} does not compute; use "
            "float16, or leave the dtype out"
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
    """Describe what an unusable profile was made for, as far as it differs from the defaults."""
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


def can_sleep_there(spec: ModelSpec, profile: Profile) -> bool:
    """Return whether an engine with the spec's sleep mode starts where the profile was measured.

    vLLM has no sleep mode on a CPU: such a replica would be refused at each start.
    """
    asked = spec.as_variant(profile.variant).engine.sleep_mode and spec.engine_kind == "vllm"
    return not (asked and profile.size.mode is SharingMode.CORES)


def has_native_dtype(profile: Profile) -> bool:
    """Return whether vLLM runs the profile's type there: it refuses bfloat16 on older GPUs."""
    spec = HARDWARE.get(profile.hardware)
    return spec is None or not (spec.native_dtype == "float16" and profile.dtype == "bfloat16")


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


def corrected(candidate: Candidate, factor: float) -> Candidate:
    """Return the candidate with its rates multiplied, and its latencies divided, by a factor."""
    if factor == 1.0:
        return candidate
    return dataclasses.replace(
        candidate,
        capacity_req_per_s=candidate.capacity_req_per_s * factor,
        output_tokens_per_s=candidate.output_tokens_per_s * factor,
        ttft_p95_seconds=candidate.ttft_p95_seconds / factor,
        tpot_p95_seconds=candidate.tpot_p95_seconds / factor,
        correction=factor,
    )


def corrections_told(placements: Sequence[Placement]) -> Iterator[str]:
    """Yield the models whose figures differ from those of their profiles."""
    factors = {(p.model, p.candidate.correction) for p in placements}
    for model, factor in sorted(factors):
        if factor != 1.0:
            yield (
                f"{model}: its replicas were slower than its profile, so its rates are planned "
                f"times {factor:.2f} (`partitiond models show --drift`) until it is measured again."
            )
