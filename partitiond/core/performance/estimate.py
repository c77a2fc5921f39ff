"""Estimates the profile of a model on a partition, without a measurement.

The roofline gives step times and the footprint model gives memory. Both are named assumptions, so
the profile says `estimated`, its provenance lists them, and the planner widens its margins (30 %
of the rate, 10 % of the memory). A replica served from an estimate is provisional.
"""

import dataclasses
from typing import Final

from partitiond.core.hardware.cpus import cpu_hardware
from partitiond.core.hardware.gpus import HARDWARE
from partitiond.core.hardware.kinds import (
    IDLE_SHARE,
    Device,
    DeviceKind,
    HardwareSpec,
    SharingMode,
    headroom_bytes,
)
from partitiond.core.hardware.lookup import mig_profile, sm_share
from partitiond.core.hardware.partition import PartitionSize
from partitiond.core.numbers.bisection import largest
from partitiond.core.performance.footprint import (
    BLOCK_TOKENS,
    CPU_CONTEXT_GIB,
    MAX_BATCH,
    EngineLimits,
    cache_tokens,
    footprint_at,
    kv_tokens,
)
from partitiond.core.performance.latency import (
    e2el_latency,
    itl_latency,
    tpot_latency,
    ttft_latency,
)
from partitiond.core.performance.roofline import (
    BANDWIDTH_EFFICIENCY,
    FLOPS_EFFICIENCY,
    NO_FACTORS,
    Factors,
)
from partitiond.core.performance.rounds import RoundCase
from partitiond.core.performance.transfer_fit import Subject
from partitiond.core.profile.knee import TOLERANCE, find_knee
from partitiond.core.profile.points import Footprint, Knee, LimitedBy, OperatingPoint, Telemetry
from partitiond.core.profile.record import Profile, ProfileKind, Provenance

LADDER_RATIO: Final = 1.25
"""Largest ratio of neighbouring batches in a prior: chosen as what the search refines to."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Case:
    """The inputs that all operating points of one estimate share."""

    subject: Subject
    rounds: RoundCase
    max_model_len: int

    @property
    def kind(self) -> DeviceKind:
        return self.subject.hardware.kind

    def footprint(self, batch: int) -> Footprint:
        limits = EngineLimits(batch, self.max_model_len, self.subject.max_num_batched_tokens)
        return footprint_at(self.rounds.architecture, self.subject.workload, limits, self.kind)


def hardware_of(device: Device) -> HardwareSpec:
    """Return the figures of a device of this host or of a fleet file: a CPU's are assumed.

    A GPU that the catalog does not know gets the figures of the smallest GPU in it, with the
    device's own memory, so that its estimate is low until it is measured.
    """
    if device.kind is DeviceKind.CPU:
        native = device.native_dtype or "bfloat16"  # hosts of earlier releases do not say it
        return cpu_hardware(device.hardware, len(device.cores), device.memory_bytes, native)
    known = HARDWARE.get(device.hardware)
    if known is not None:
        return known
    smallest = min(HARDWARE.values(), key=lambda spec: spec.flops_16bit)
    return dataclasses.replace(
        smallest,
        key=device.hardware,
        memory_bytes=device.memory_bytes,
        nominal_bytes=device.memory_bytes,
        aliases=(),
        native_dtype="bfloat16",
        tdp_watts=None,
        source=f"unknown GPU: speed assumed like {smallest.key}",
    )


def usable_memory_bytes(hardware: HardwareSpec | Device) -> int:
    """Return the memory for footprints, in bytes: total less reserved memory and headroom."""
    reserved = hardware.reserved_bytes if isinstance(hardware, Device) else 0
    total = hardware.memory_bytes
    return max(0, total - reserved - headroom_bytes(total))


def partition_bytes(hardware: HardwareSpec | Device, size: PartitionSize) -> int:
    """Return the memory for one footprint in a partition of this size, in bytes.

    A MIG slice has its own memory, less the headroom. Every other partition may take all usable
    memory of the device while it is alone there.

    Raises:
        SpecError: the GPU has no such MIG profile.
    """
    if size.mode is not SharingMode.MIG:
        return usable_memory_bytes(hardware)
    spec = hardware_of(hardware) if isinstance(hardware, Device) else hardware
    total = mig_profile(spec, size.mig_profile).memory_bytes
    return max(0, total - headroom_bytes(total))


def estimate_profile(
    subject: Subject,
    max_model_len: int,
    *,
    profile_id: str = "",
    created_at: str = "",
    device: Device | None = None,
    memory_bytes: int | None = None,
    max_batch: int = MAX_BATCH,
    weights: str = "real",
    partitiond_version: str = "",
    variant: str = "",
    refined: bool = False,
    factors: Factors = NO_FACTORS,
) -> Profile:
    """Return an estimated profile with operating points at powers of two.

    Args:
        subject: the model on its partition.
        max_model_len: context length of the engine, in tokens.
        profile_id: identifier of the new profile.
        created_at: ISO 8601 UTC.
        device: the device of a host; None for any of the subject's kind.
        memory_bytes: memory budget of the partition; None for all usable memory in it.
        max_batch: largest batch.
        weights: "real" or "dummy", for the provenance.
        partitiond_version: for the provenance.
        variant: form of the model that the profile is for.
        refined: points at most 1.25x apart, up to exactly the largest batch that fits.
        factors: how much longer the parts of a step take than the constants say.

    Returns:
        The profile. If not even one request fits, the profile has no points, its knee's largest
        batch is 0, and its footprint is what one request would need.

    Raises:
        SpecError: there is no estimate for this partition kind on this device.
    """
    of_partition = partition_bytes(device or subject.hardware, subject.size)
    budget = of_partition if memory_bytes is None else memory_bytes
    alike = subject.rounds
    rounds = dataclasses.replace(alike, reached=factors.of(alike.reached))
    case = _Case(subject, rounds, max_model_len)
    fitting = largest(lambda batch: case.footprint(batch).peak_bytes <= budget, max_batch)
    batches = batch_ladder(fitting) if refined else _powers_of_two(fitting)
    points = tuple(_point(case, batch) for batch in batches)
    most = points[-1].batch if points else 1
    return Profile(
        id=profile_id,
        model=subject.model,
        kind=ProfileKind.ESTIMATED,
        hardware=subject.hardware.key,
        size=subject.size,
        workload=subject.workload,
        dtype=subject.dtype,
        points=points,
        knee=_knee(points, LimitedBy.MEMORY if fitting < max_batch else LimitedBy.CAP),
        footprint=case.footprint(most),
        kv_cache_tokens=cache_tokens(most, subject.workload, max_model_len, case.kind),
        provenance=_provenance(
            case, device, weights=weights, created_at=created_at, version=partitiond_version
        ),
        variant=variant,
        max_num_batched_tokens=subject.max_num_batched_tokens,
        kv_cache_dtype=subject.kv_cache_dtype,
    )


def prior_curve(subject: Subject, max_batch: int) -> tuple[tuple[int, float], ...]:
    """Predict (batch, tokens/s) up to `max_batch`, to choose the first batches of a search.

    Memory is ignored. Raises SpecError if there is no estimate for this partition.
    """
    rounds = subject.rounds
    return tuple((batch, batch / rounds.round(batch).seconds) for batch in batch_ladder(max_batch))


def batch_ladder(largest: int) -> tuple[int, ...]:
    """Return 1 to `largest`: powers of two, and between them steps of at most `LADDER_RATIO`."""
    found = set(_powers_of_two(largest)) | ({largest} if largest >= 1 else set())
    batch = 1
    while batch < largest:
        batch = min(largest, max(batch + 1, int(batch * LADDER_RATIO)))
        found.add(batch)
    return tuple(sorted(found))


def _powers_of_two(limit: int) -> tuple[int, ...]:
    return tuple(2**n for n in range(limit.bit_length()))


def _point(case: _Case, batch: int) -> OperatingPoint:
    cycle = case.rounds.round(batch).seconds
    tpot = tpot_latency(case.rounds, batch)
    workload = case.subject.workload
    moments = workload.moments
    told = _activity(case, batch, cycle) if case.kind is DeviceKind.GPU else None
    watts = None if told is None else told.power_watts
    return OperatingPoint(
        batch=batch,
        output_tokens_per_s=batch / cycle,
        half_width=0.0,
        req_per_s=batch / cycle / moments.o,
        ttft=ttft_latency(case.rounds, batch),
        tpot=tpot,
        itl=itl_latency(case.rounds, batch),
        e2el=e2el_latency(workload, cycle),
        kv_tokens=kv_tokens(batch, workload, case.max_model_len, BLOCK_TOKENS[case.kind]),
        footprint_bytes=case.footprint(batch).peak_bytes,
        running_mean=float(batch),
        prompt_tokens_per_s=batch / cycle * moments.p / moments.o,
        telemetry=told,
        joules_per_output_token=None if watts is None else watts * cycle / batch,
    )


def _activity(case: _Case, batch: int, cycle: float) -> Telemetry:
    """Return what the GPU would show of a round.

    It has kernels in `busy_seconds`, when no other process can use it in turn. The paper's Figures
    5 and 6 show that time-sliced replicas fill the rest: much of it with OPT-125M, little with
    OPT-2.7B. The partition's SMs are active while kernels compute or move data, not while the next
    one is launched (Figure 3: seldom on average, more with larger batches). Power is assumed to
    rise with them from the idle draw to the thermal design power (Figures 4 and 7).
    """
    terms, spec = case.rounds.terms(batch), case.subject.hardware
    busy, works = (min(1.0, x / cycle) for x in (terms.busy_seconds, terms.device_seconds))
    active = works * sm_share(spec, case.subject.size)
    draw = IDLE_SHARE + (1 - IDLE_SHARE) * active
    watts = None if spec.tdp_watts is None else spec.tdp_watts * draw
    return Telemetry("estimate", gpu_util=busy, sm_activity=active, power_watts=watts)


def _knee(points: tuple[OperatingPoint, ...], limited_by: LimitedBy) -> Knee:
    if not points:
        return Knee(None, None, None, TOLERANCE, 0.0, LimitedBy.MEMORY, 0)
    return find_knee(points, capped_by=limited_by)


def _notes(case: _Case) -> tuple[str, ...]:
    spec = case.subject.hardware
    notes = [
        "estimated: nothing was measured",
        f"hardware figures: {spec.source}",
        f"assumed to reach {BANDWIDTH_EFFICIENCY:.0%} of bandwidth and {FLOPS_EFFICIENCY:.0%} of "
        "arithmetic",
    ]
    if case.kind is DeviceKind.CPU:
        notes.append(f"engine processes assumed to take {CPU_CONTEXT_GIB:.1f} GiB of host memory")
    if case.subject.architecture.note:
        notes.append(case.subject.architecture.note)
    return tuple(notes)


def _provenance(
    case: _Case,
    device: Device | None,
    *,
    weights: str,
    created_at: str,
    version: str,
) -> Provenance:
    key, quantization = case.subject.hardware.key, case.subject.quantization
    return Provenance(
        engine="estimate",
        engine_version="",
        engine_args=(
            f"--max-num-batched-tokens={case.subject.max_num_batched_tokens}",
            *((f"--quantization={quantization}",) if quantization else ()),
        ),
        weights=weights,
        model_revision=None,
        hardware=key,
        device_name=device.name if device else key,
        driver=device.driver if device else "",
        host_cores=(),
        seed=0,
        started_at=created_at,
        duration_seconds=0.0,
        partitiond_version=version,
        notes=_notes(case),
    )
