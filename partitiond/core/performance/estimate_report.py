"""Reports an estimate in the figures that users ask for: memory, frontier, replicas, cost."""

import dataclasses
import math
from typing import Final

from partitiond.core.errors import SpecError
from partitiond.core.hardware.kinds import HardwareSpec, SharingMode
from partitiond.core.hardware.lookup import mig_profile
from partitiond.core.hardware.partition import PartitionSize
from partitiond.core.model.architecture import Architecture
from partitiond.core.model.precision import require_dtype
from partitiond.core.model.spec import ModelSpec
from partitiond.core.performance.estimate import estimate_profile, partition_bytes
from partitiond.core.performance.footprint import max_batch
from partitiond.core.performance.replicas import Replication, replicas_that_fit, replications
from partitiond.core.performance.transfer_fit import subject_of
from partitiond.core.profile.points import Footprint, LimitedBy, OperatingPoint
from partitiond.core.profile.record import operating_point

MEMORY_FRACTION: Final = 0.9
"""Share of the device memory for all that engines hold; vLLM's default and the paper's."""


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
        replicas_that_fit: of that footprint on one device.
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
    spec: ModelSpec,
    architecture: Architecture,
    hardware: HardwareSpec,
    size: PartitionSize,
    memory_fraction: float = MEMORY_FRACTION,
) -> EstimateReport:
    """Estimate a model on a kind of device or a partition of it.

    Args:
        spec: recognised.
        architecture: of the model as published.
        hardware, size: the partition.
        memory_fraction: share of the memory for all footprints together.

    Raises:
        SpecError: the hardware has no such partition or dtype, or the share is none.
    """
    if not 0 < memory_fraction <= 1:
        raise SpecError(
            f"the memory fraction must lie above 0 and at most at 1, got {memory_fraction:g}.",
            hint="Write 0.9 for 90 % of the device memory.",
        )
    require_dtype(hardware, spec.engine.dtype)
    subject = subject_of(spec, architecture, hardware, size)
    loaded = subject.loaded
    sold, budget = _memory(memory_fraction, hardware, size)
    profile = estimate_profile(subject, spec.max_model_len, memory_bytes=budget, refined=True)
    point = operating_point(profile, spec.slo)
    batch = point.batch if point else 1
    shared = SharingMode.MEMORY if size.mode is SharingMode.WHOLE else size.mode
    return EstimateReport(
        model=subject.model,
        hardware=hardware.key,
        partition=size.key,
        workload=subject.workload.key,
        dtype=subject.dtype,
        quantization=subject.quantization,
        kv_cache_dtype=subject.kv_cache_dtype,
        parameters=loaded.parameters,
        memory_bytes=sold,
        budget_bytes=budget,
        memory_fraction=memory_fraction,
        max_batch=max_batch(loaded, subject.workload, sold, share=memory_fraction),
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
        footprint=subject.footprint(batch, spec.max_model_len),
        replicas_that_fit=(
            0 if point is None else replicas_that_fit(hardware, size, shared, point, budget)
        ),
        replications=replications(profile, subject, budget, spec.slo),
        points=tuple(_estimated(p) for p in profile.points),
        notes=profile.provenance.notes,
    )


def _memory(fraction: float, hardware: HardwareSpec, size: PartitionSize) -> tuple[int, int]:
    """Return the memory as sold, and the budget for footprints, in bytes."""
    if size.mode is SharingMode.MIG:
        sold = reported = mig_profile(hardware, size.mig_profile).memory_bytes
    else:
        sold, reported = hardware.sold_bytes, hardware.memory_bytes
    return sold, min(math.floor(reported * fraction), partition_bytes(hardware, size))


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
