"""Plans the profiler's engine starts: limits at the largest batch, a KV cache to match."""

import dataclasses
from typing import Final

from partitiond.core.errors import InputError
from partitiond.core.hardware.kinds import DeviceKind, SharingMode
from partitiond.core.hardware.partition import MemoryShare, MigSlice, MpsShare, PartitionSize
from partitiond.core.model.architecture import Architecture
from partitiond.core.model.precision import as_loaded
from partitiond.core.model.spec import EngineOptions
from partitiond.core.numbers.bisection import largest
from partitiond.core.performance.footprint import (
    MAX_BATCH,
    MAX_NUM_BATCHED_TOKENS,
    EngineLimits,
    cache_bytes,
    footprint_at,
)
from partitiond.core.performance.planned_speed import speed_environment
from partitiond.core.replica.engine import EngineLaunch
from partitiond.core.units import format_bytes
from partitiond.ports import ProfileRequest

ROUNDED_FROM: Final = 64
ROUNDED_TO: Final = 8
"""A largest batch that is set by free memory is rounded down, so that the same engine starts when a
few MiB less are free, and an interrupted profile can go on."""


@dataclasses.dataclass(frozen=True, slots=True)
class ProfileLaunch:
    """The launch of the engine, and what limited it.

    Attributes:
        max_batch: largest batch that the engine's limits and KV cache are made for.
        memory_limited: the memory budget, not the caller, set `max_batch`.
        architecture: as the engine loads it: dtype, quantisation and KV precision applied.
    """

    launch: EngineLaunch
    limits: EngineLimits
    max_batch: int
    memory_limited: bool
    architecture: Architecture


def as_started(architecture: Architecture, engine: EngineOptions) -> Architecture:
    """Return the architecture with the widths that these options give its weights and KV cache."""
    return as_loaded(
        architecture,
        dtype=engine.dtype,
        quantization=engine.quantization,
        kv_cache_dtype=engine.kv_cache_dtype,
    )


def step_tokens(engine: EngineOptions, batch: int) -> int:
    """Return tokens of one engine step: as requested or the default, at least one for each
    sequence.
    """
    return max(engine.max_num_batched_tokens or MAX_NUM_BATCHED_TOKENS, batch)


def plan_launch(request: ProfileRequest, replica_id: str) -> ProfileLaunch:
    """Plan one engine start for all batches: limits at the largest, a KV cache to match.

    The largest batch is the requested one, at most 512, reduced until the whole footprint fits in
    the memory budget.

    Raises:
        InputError: not even one request fits.
    """
    spec = request.model.spec
    architecture = as_started(request.model.architecture, spec.engine)
    wanted = min(request.max_batch, MAX_BATCH)
    batch = _largest_batch(request, architecture, wanted)
    if ROUNDED_FROM <= batch < wanted:
        batch -= batch % ROUNDED_TO
    if batch < 1:
        raise InputError(
            f"{spec.name} does not fit in {format_bytes(request.memory_bytes)}: not even one "
            f"request of {spec.workload.key} tokens does.",
            hint="Give the partition more memory, or choose a smaller model.",
            facts={"memory_bytes": request.memory_bytes, "model": spec.name},
        )
    cache = kv_bytes(request, architecture, batch)
    launch = _launch(request, replica_id, batch=batch, kv_cache_bytes=cache, prefix_caching=False)
    return ProfileLaunch(launch, _limits(launch), batch, batch < wanted, architecture)


def confirming_launch(
    request: ProfileRequest, replica_id: str, *, batch: int, kv_cache_bytes: int
) -> ProfileLaunch:
    """Plan an engine as plans start it: its limit is the batch, its KV cache what that needs.

    Prefix caching is on, as when serving. No two prompts share a prefix, so nothing is answered
    from the cache; but blocks are then reused in turn instead of last in, first out, so that the
    whole cache is written and the footprint is that of an engine that has run for long.
    """
    launch = _launch(
        request, replica_id, batch=batch, kv_cache_bytes=kv_cache_bytes, prefix_caching=True
    )
    architecture = as_started(request.model.architecture, request.model.spec.engine)
    return ProfileLaunch(launch, _limits(launch), batch, memory_limited=False,
                         architecture=architecture)  # fmt: skip


def kv_bytes(request: ProfileRequest, architecture: Architecture, batch: int) -> int:
    """Return bytes of the KV cache that this batch of the request's workload needs."""
    workload = request.model.spec.workload
    return cache_bytes(architecture, workload, _limits_at(request, batch), request.device.kind)


def _launch(
    request: ProfileRequest,
    replica_id: str,
    *,
    batch: int,
    kv_cache_bytes: int,
    prefix_caching: bool,
) -> EngineLaunch:
    spec, device = request.model.spec, request.device
    return EngineLaunch(
        replica_id=replica_id,
        model_name=spec.name,
        model_folder=str(request.model.folder),
        placement=None,
        device_id=device.id,
        visible_device=device.id if device.kind is DeviceKind.GPU else "",
        cores=request.cores,
        memory_bytes=request.memory_bytes,
        device_memory_bytes=device.memory_bytes,
        kv_cache_bytes=kv_cache_bytes,
        max_num_seqs=batch,
        max_num_batched_tokens=step_tokens(spec.engine, batch),
        max_model_len=spec.max_model_len,
        dtype=spec.engine.dtype,
        dummy_weights=request.model.dummy_weights,
        extra_args=spec.engine.extra_args,
        engine_kind=spec.engine_kind,
        extra_env=speed_environment(
            spec,
            request.model.architecture,
            device=device,
            size=size_of(request),
            dtype=spec.engine.dtype,
        ),
        prefix_caching=prefix_caching,
        quantization=spec.engine.quantization,
        kv_cache_dtype=spec.engine.kv_cache_dtype,
        partition=request.partition,
        isolation_group=spec.isolation_group,
    )


def size_of(request: ProfileRequest) -> PartitionSize:
    """Return the size of the partition that is measured.

    A memory share has all of the SMs, and so has a whole GPU; a MIG slice has all of its own. The
    size does not say how many host cores a GPU's engine needs: the planner asks its telemetry.
    """
    match request.partition:
        case MemoryShare():
            return PartitionSize(SharingMode.MEMORY, 1, 100)
        case MpsShare(sm_percent=percent):
            return PartitionSize(SharingMode.MPS, 1, percent)
        case MigSlice(mig_profile=name):
            return PartitionSize(SharingMode.MIG, 1, 100, name)
    if request.device.kind is DeviceKind.CPU:
        return PartitionSize(SharingMode.CORES, len(request.cores))
    return PartitionSize(SharingMode.WHOLE, 1, 100)


def _limits(launch: EngineLaunch) -> EngineLimits:
    return EngineLimits(launch.max_num_seqs, launch.max_model_len, launch.max_num_batched_tokens)


def _limits_at(request: ProfileRequest, batch: int) -> EngineLimits:
    spec = request.model.spec
    return EngineLimits(batch, spec.max_model_len, step_tokens(spec.engine, batch))


def _largest_batch(request: ProfileRequest, architecture: Architecture, wanted: int) -> int:
    """Return the largest batch up to `wanted` whose full footprint fits; 0 if none does."""
    workload, kind = request.model.spec.workload, request.device.kind

    def fits(batch: int) -> bool:
        needed = footprint_at(architecture, workload, _limits_at(request, batch), kind)
        return needed.peak_bytes <= request.memory_bytes

    return largest(fits, wanted)  # the footprint grows with the batch


def engine_args(launch: EngineLaunch) -> tuple[str, ...]:
    """Return the flags that decide the engine's speed and memory, in the engine's spelling."""
    return (
        f"--max-num-seqs={launch.max_num_seqs}",
        f"--max-num-batched-tokens={launch.max_num_batched_tokens}",
        f"--max-model-len={launch.max_model_len}",
        f"--kv-cache-memory-bytes={launch.kv_cache_bytes}",
        f"--dtype={launch.dtype}",
        *((f"--quantization={launch.quantization}",) if launch.quantization else ()),
        *(
            (f"--kv-cache-dtype={launch.kv_cache_dtype}",)
            if launch.kv_cache_dtype != "auto"
            else ()
        ),
        *(() if launch.prefix_caching else ("--no-enable-prefix-caching",)),
        *launch.extra_args,
    )
