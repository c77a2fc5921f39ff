"""How the profiler starts its one engine: limits at the largest batch, a KV cache to match."""

import dataclasses

from partitiond.core.architecture import Architecture
from partitiond.core.errors import InputError
from partitiond.core.estimate import with_dtype
from partitiond.core.footprint import (
    BLOCK_TOKENS,
    MAX_BATCH,
    MAX_NUM_BATCHED_TOKENS,
    EngineLimits,
    footprint,
)
from partitiond.core.hardware import DeviceKind
from partitiond.core.units import format_bytes
from partitiond.ports import EngineLaunch, ProfileRequest
from partitiond.profiler.fit import point_kv_bytes


@dataclasses.dataclass(frozen=True, slots=True)
class ProfileLaunch:
    """What the engine is started with, and what limited it.

    Attributes:
        max_batch: largest batch its limits and KV cache are made for.
        memory_limited: the memory budget, not the caller, set `max_batch`.
        architecture: of the dtype it is loaded with.
    """

    launch: EngineLaunch
    limits: EngineLimits
    max_batch: int
    memory_limited: bool
    architecture: Architecture


def plan_launch(request: ProfileRequest, replica_id: str) -> ProfileLaunch:
    """One engine start for all batches: limits at the largest, a KV cache to match.

    The largest batch is the asked one, at most 512, as far as the whole footprint fits in the
    memory budget.

    Raises:
        InputError: not even one request fits.
    """
    spec, device = request.model.spec, request.device
    architecture = with_dtype(request.model.architecture, spec.engine.dtype)
    wanted = min(request.max_batch, MAX_BATCH)
    batch = _largest_batch(request, architecture, wanted)
    if batch < 1:
        raise InputError(
            f"{spec.name} does not fit in {format_bytes(request.memory_bytes)}: not even one "
            f"request of {spec.workload.key} tokens does.",
            hint="Give the partition more memory, or choose a smaller model.",
            facts={"memory_bytes": request.memory_bytes, "model": spec.name},
        )
    block = BLOCK_TOKENS[device.kind]
    cache = point_kv_bytes(architecture, batch, spec.workload, spec.max_model_len, block)
    limits = EngineLimits(batch, spec.max_model_len, MAX_NUM_BATCHED_TOKENS)
    launch = EngineLaunch(
        replica_id=replica_id,
        model_name=spec.name,
        model_folder=str(request.model.folder),
        placement=None,
        device_id=device.id,
        visible_device=device.id if device.kind is DeviceKind.GPU else "",
        cores=request.cores,
        memory_bytes=request.memory_bytes,
        device_memory_bytes=device.memory_bytes,
        kv_cache_bytes=cache,
        max_num_seqs=limits.max_num_seqs,
        max_num_batched_tokens=limits.max_num_batched_tokens,
        max_model_len=limits.max_model_len,
        dtype=spec.engine.dtype,
        dummy_weights=request.model.dummy_weights,
        extra_args=spec.engine.extra_args,
        engine_kind=spec.engine_kind,
        prefix_caching=False,
    )
    return ProfileLaunch(launch, limits, batch, batch < wanted, architecture)


def _largest_batch(request: ProfileRequest, architecture: Architecture, wanted: int) -> int:
    """The largest batch up to `wanted` whose full footprint fits; 0 where none does."""
    spec, kind = request.model.spec, request.device.kind

    def fits(batch: int) -> bool:
        limits = EngineLimits(batch, spec.max_model_len, MAX_NUM_BATCHED_TOKENS)
        cache = point_kv_bytes(
            architecture, batch, spec.workload, spec.max_model_len, BLOCK_TOKENS[kind]
        )
        return footprint(architecture, limits, cache, kind).peak_bytes <= request.memory_bytes

    low, high = 0, wanted  # the footprint grows with the batch, so bisection finds the edge
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low
