"""Reports an estimate in the figures that users ask for: memory, frontier, replicas, cost."""

import dataclasses
import math
from typing import Final

from partitiond.core.errors import SpecError
from partitiond.core.hardware.kinds import HardwareSpec, SharingMode
from partitiond.core.hardware.lookup import mig_profile
from partitiond.core.hardware.partition import PartitionSize
from partitiond.core.model.architecture import Architecture
from partitiond.core.model.precision import engine_dtype, require_dtype
from partitiond.core.model.spec import Slo
from partitiond.core.model.workload import Workload
from partitiond.core.performance.estimate import estimate_profile, partition_bytes
from partitiond.core.performance.footprint import (
    MAX_NUM_BATCHED_TOKENS,
    EngineLimits,
    footprint_at,
    max_batch,
)
from partitiond.core.performance.replicas import Replication, replicas_that_fit, replications
from partitiond.core.performance.transfer_fit import Subject
from partitiond.core.profile.points import Footprint, LimitedBy, OperatingPoint
from partitiond.core.profile.record import Profile, operating_point

MEMORY_FRACTION: Final = 0.9
"""Share of the device memory for all that engines hold; vLLM's default and the paper's."""


@dataclasses.dataclass(frozen=True, slots=True)
class Question:
    """The inputs of an estimate.

    Attributes:
        model: name, for display.
        architecture: of the model as published.
        workload: request shape.
        slo: bounds, or None if throughput alone counts.
        dtype: of the engine; "auto" as `engine_dtype` says.
        quantization, kv_cache_dtype: as in `EngineOptions`.
        memory_fraction: share of the memory for all footprints together.
        max_model_len: context length; None derives it from the workload.
        max_num_batched_tokens: tokens of one engine step.
    """

    model: str
    architecture: Architecture
    workload: Workload
    slo: Slo | None = None
    dtype: str = "auto"
    quantization: str = ""
    kv_cache_dtype: str = "auto"
    memory_fraction: float = MEMORY_FRACTION
    max_model_len: int | None = None
    max_num_batched_tokens: int = MAX_NUM_BATCHED_TOKENS

    def __post_init__(self) -> None:
        if not 0 < self.memory_fraction <= 1:
            raise SpecError(
                f"the memory fraction must lie above 0 and at most at 1, "
                f"got {self.memory_fraction:g}.",
                hint="Write 0.9 for 90 % of the device memory.",
            )
        longest, built_for = self.workload.longest_tokens, self.architecture.max_position
        if self.context_tokens > built_for:
            raise SpecError(
                f"{self.model} was built for {built_for} tokens of context, "
                f"this needs {self.context_tokens}.",
                hint="Lower the prompt or output tokens."
                if longest > built_for
                else f"Give a context of {longest} to {built_for} tokens, or leave it out.",
                facts={"max_position": built_for},
            )
        if self.context_tokens < longest:
            raise SpecError(
                f"requests of up to {longest} tokens do not fit in a context of "
                f"{self.context_tokens}.",
                hint="Give shorter lengths, or leave the context out to derive it from them.",
                facts={"longest_tokens": longest},
            )

    @property
    def context_tokens(self) -> int:
        """Context length of the engine: as given, or the longest request plus a quarter."""
        if self.max_model_len is not None:
            return self.max_model_len
        wanted = max(256, math.ceil(self.workload.longest_tokens * 1.25))
        # The quarter is for real requests, which vary; it ends at the model's longest context.
        longest = self.workload.longest_tokens
        return max(longest, min(wanted, self.architecture.max_position))


@dataclasses.dataclass(frozen=True, slots=True)
class EstimatedPoint:
    """One batch of the roofline frontier; latencies are 95th percentiles.

    Attributes:
        sm_activity, joules_per_output_token: of a GPU that serves nothing else; null on a CPU, and
            the energy if the GPU's power is not known.
    """

    batch: int
    req_per_s: float
    output_tokens_per_s: float
    ttft_p95_seconds: float
    tpot_p95_seconds: float
    kv_tokens: int
    footprint_bytes: int
    sm_activity: float | None
    joules_per_output_token: float | None


@dataclasses.dataclass(frozen=True, slots=True)
class EstimateReport:
    """An estimate, as it is printed.

    Attributes:
        model, hardware, partition, workload: subject of the estimate.
        dtype, quantization, kv_cache_dtype: as the engine would load the model.
        parameters: of the model.
        memory_bytes: of the device or MIG slice, as sold.
        budget_bytes: for footprints: the memory fraction of what the driver reports, less headroom.
        memory_fraction: as given.
        max_batch: the paper's memory model: weights and mean KV occupancy in that fraction of the
            memory as sold, a power of two up to 512.
        max_batch_safe: largest batch whose whole footprint fits the budget.
        weights_bytes, kv_bytes_per_token: as loaded; of towers, too.
        knee_batch: null if throughput still grew; `limited_by` says what ended the growth.
        limited_by: memory or cap; null with a knee.
        operating_batch: the knee, or the largest batch; with an SLO, the largest batch up to that
            one that holds the SLO; null if none does.
        throughput_req_per_s, throughput_output_tokens_per_s: of one replica at the operating
            batch, closed loop.
        ttft_p95_seconds, tpot_p95_seconds: at the operating batch; null without one.
        footprint: by terms, at the operating batch (without one, for one request).
        replicas_that_fit: of that footprint in the budget, or of MIG slices in the GPU.
        replications: the best way to run 1, 2, 3 ... replicas on one device within the SLO.
        points: the roofline frontier, batches at most 1.25x apart.
        notes: assumptions of the estimate.
    """

    model: str
    hardware: str
    partition: str
    workload: str
    dtype: str
    quantization: str
    kv_cache_dtype: str
    parameters: int
    memory_bytes: int
    budget_bytes: int
    memory_fraction: float
    max_batch: int
    max_batch_safe: int
    weights_bytes: int
    kv_bytes_per_token: int
    knee_batch: int | None
    limited_by: LimitedBy | None
    operating_batch: int | None
    throughput_req_per_s: float
    throughput_output_tokens_per_s: float
    ttft_p95_seconds: float | None
    tpot_p95_seconds: float | None
    footprint: Footprint
    replicas_that_fit: int
    replications: tuple[Replication, ...]
    points: tuple[EstimatedPoint, ...]
    notes: tuple[str, ...]


def estimate_report(
    question: Question, hardware: HardwareSpec, size: PartitionSize
) -> EstimateReport:
    """Estimate a model on a kind of device or a partition of it.

    Raises:
        SpecError: the hardware has no such partition or dtype.
    """
    subject = _subject(question, hardware, size)
    loaded = subject.loaded
    sold, budget = _memory(question, hardware, size)
    profile = _profile(question, subject, budget)
    point = operating_point(profile, question.slo)
    batch = point.batch if point else 1
    limits = EngineLimits(batch, question.context_tokens, question.max_num_batched_tokens)
    return EstimateReport(
        model=question.model,
        hardware=hardware.key,
        partition=size.key,
        workload=question.workload.key,
        dtype=subject.dtype,
        quantization=question.quantization,
        kv_cache_dtype=question.kv_cache_dtype,
        parameters=loaded.parameters,
        memory_bytes=sold,
        budget_bytes=budget,
        memory_fraction=question.memory_fraction,
        max_batch=max_batch(loaded, question.workload, sold, share=question.memory_fraction),
        max_batch_safe=profile.points[-1].batch if profile.points else 0,
        weights_bytes=loaded.resident_bytes,
        kv_bytes_per_token=loaded.kv_bytes_per_token,
        knee_batch=profile.knee.batch,
        limited_by=profile.knee.limited_by,
        operating_batch=point.batch if point else None,
        throughput_req_per_s=point.req_per_s if point else 0.0,
        throughput_output_tokens_per_s=point.output_tokens_per_s if point else 0.0,
        ttft_p95_seconds=point.ttft.p95 if point else None,
        tpot_p95_seconds=point.tpot.p95 if point else None,
        footprint=footprint_at(loaded, question.workload, limits, hardware.kind),
        replicas_that_fit=_replicas_that_fit(hardware, size, point, budget),
        replications=replications(profile, subject, budget, question.slo),
        points=tuple(_estimated(p) for p in profile.points),
        notes=profile.provenance.notes,
    )


def _subject(question: Question, hardware: HardwareSpec, size: PartitionSize) -> Subject:
    require_dtype(hardware, question.dtype)
    return Subject(
        model=question.model,
        architecture=question.architecture,
        hardware=hardware,
        size=size,
        workload=question.workload,
        dtype=engine_dtype(hardware, question.dtype, question.architecture, question.quantization),
        quantization=question.quantization,
        kv_cache_dtype=question.kv_cache_dtype,
        max_num_batched_tokens=question.max_num_batched_tokens,
    )


def _memory(question: Question, hardware: HardwareSpec, size: PartitionSize) -> tuple[int, int]:
    """Return the memory as sold, and the budget for footprints, in bytes."""
    if size.mode is SharingMode.MIG:
        sold = reported = mig_profile(hardware, size.mig_profile).memory_bytes
    else:
        sold, reported = hardware.sold_bytes, hardware.memory_bytes
    share = math.floor(reported * question.memory_fraction)
    return sold, min(share, partition_bytes(hardware, size))


def _profile(question: Question, subject: Subject, budget: int) -> Profile:
    return estimate_profile(
        model=question.model,
        architecture=question.architecture,
        workload=question.workload,
        hardware=subject.hardware,
        size=subject.size,
        max_model_len=question.context_tokens,
        profile_id="",
        created_at="",
        dtype=subject.dtype,
        memory_bytes=budget,
        max_num_batched_tokens=question.max_num_batched_tokens,
        quantization=question.quantization,
        kv_cache_dtype=question.kv_cache_dtype,
        refined=True,
    )


def _replicas_that_fit(
    hardware: HardwareSpec, size: PartitionSize, point: OperatingPoint | None, budget: int
) -> int:
    """Return replicas that fit by memory, and at most as many as there are cores or MIG slices."""
    if point is None:
        return 0
    if size.mode is SharingMode.MIG:
        return mig_profile(hardware, size.mig_profile).max_instances
    if size.mode is SharingMode.CORES:
        return min(hardware.cores // size.cores, replicas_that_fit(point, budget, size.mode))
    mode = SharingMode.MPS if size.mode is SharingMode.MPS else SharingMode.MEMORY
    return replicas_that_fit(point, budget, mode)


def _estimated(point: OperatingPoint) -> EstimatedPoint:
    return EstimatedPoint(
        batch=point.batch,
        req_per_s=point.req_per_s,
        output_tokens_per_s=point.output_tokens_per_s,
        ttft_p95_seconds=point.ttft.p95,
        tpot_p95_seconds=point.tpot.p95,
        kv_tokens=point.kv_tokens,
        footprint_bytes=point.footprint_bytes,
        sm_activity=point.telemetry.sm_activity if point.telemetry else None,
        joules_per_output_token=point.joules_per_output_token,
    )
