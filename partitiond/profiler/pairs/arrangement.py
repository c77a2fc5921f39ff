"""Defines arrangements: replicas with their shares of a device, and how each is started.

Only `launch_of` differs between devices: cores are pinned and memory is budgeted everywhere, and
under MPS the partition of an engine caps its SMs.
"""

import dataclasses
import secrets
from collections.abc import Sequence

from partitiond.core.hardware.kinds import Device, DeviceKind, SharingMode, headroom_bytes
from partitiond.core.hardware.partition import CpuCores, MemoryShare, MpsShare, Partition
from partitiond.core.model.resolved import ResolvedModel
from partitiond.core.performance.footprint import EngineLimits, footprint
from partitiond.core.performance.interference import mode_overhead_bytes
from partitiond.core.replica.engine import EngineLaunch
from partitiond.core.units import Bytes
from partitiond.ports import ProfileRequest
from partitiond.profiler.sweep.launch import plan_launch


@dataclasses.dataclass(frozen=True, slots=True)
class DeviceShare:
    """The part of a device that one replica gets.

    Attributes:
        cores: host cores of the replica's processes; on a CPU device its partition.
        memory_bytes: memory budget; a batch that does not fit is lowered.
        batch: requests in flight, and the engine's limit.
        sm_percent: cap on the replica's SMs under MPS; 0 sets none.
        extra_env: further environment, for callers that make partitions in another way.
        mode: kind of the partition that the engine's runner makes; None for no partition: then
            the device is used as it is, and only the environment says otherwise.
    """

    cores: tuple[int, ...]
    memory_bytes: int
    batch: int
    sm_percent: int = 0
    extra_env: tuple[tuple[str, str], ...] = ()
    mode: SharingMode | None = None

    def partition_on(self, device: Device, isolation_group: str = "") -> Partition | None:
        """Return the share as a partition of the device; None if no partition is to be made."""
        memory = Bytes(self.memory_bytes)
        match self.mode:
            case SharingMode.MPS:
                percent = self.sm_percent or 100
                return MpsShare(device.id, memory, percent, isolation_group=isolation_group)
            case SharingMode.MEMORY:
                return MemoryShare(device.id, memory)
            case SharingMode.CORES:
                return CpuCores(device.id, memory, self.cores)
            case _:
                return None


@dataclasses.dataclass(frozen=True, slots=True)
class Replica:
    """A model with its share."""

    model: ResolvedModel
    share: DeviceShare


@dataclasses.dataclass(frozen=True, slots=True)
class Arrangement:
    """Replicas that are under load at the same time.

    Attributes:
        name: for people, unique in a measurement, as "2 on 1 core each".
    """

    name: str
    mode: SharingMode
    replicas: tuple[Replica, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Started:
    """A replica as it is started: its launch, the batch that its memory holds, its footprint."""

    launch: EngineLaunch
    request: ProfileRequest
    batch: int
    footprint_bytes: int


def launch_of(device: Device, replica: Replica, seed: int = 0) -> Started:
    """Turn a share into an engine: cores are pinned, memory and SMs are its budget.

    Raises:
        InputError: not even one request fits into the share's memory.
    """
    share, model = replica.share, replica.model
    request = ProfileRequest(
        model=model,
        device=device,
        cores=share.cores,
        memory_bytes=share.memory_bytes,
        max_batch=share.batch,
        seed=seed,
        partition=share.partition_on(device, model.spec.isolation_group),
    )
    planned = plan_launch(request, f"share-{secrets.token_hex(4)}")
    limits = EngineLimits(
        planned.launch.max_num_seqs,
        planned.launch.max_model_len,
        planned.launch.max_num_batched_tokens,
    )
    needs = footprint(planned.architecture, limits, planned.launch.kv_cache_bytes, device.kind)
    percent = str(share.sm_percent)
    bare = share.sm_percent and share.mode is None
    capped = (("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", percent),) if bare else ()
    launch = dataclasses.replace(planned.launch, extra_env=(*share.extra_env, *capped))
    return Started(launch, request, planned.max_batch, needs.peak_bytes)


def may_keep_up(device: Device, arrangements: Sequence[Arrangement]) -> bool:
    """Return whether all engines of all arrangements fit into the device's memory at once.

    On a CPU the footprints count; on a GPU the budgets count, because an engine refuses to start
    unless the memory of its budget is free.
    """
    room = min(device.memory_bytes - device.reserved_bytes, device.free_bytes)
    room -= headroom_bytes(device.memory_bytes)
    room -= max(mode_overhead_bytes(a.mode) for a in arrangements)
    replicas = engines_of(arrangements).values()
    if device.kind is DeviceKind.GPU:
        return sum(r.share.memory_bytes for r in replicas) <= room
    return sum(launch_of(device, r).footprint_bytes for r in replicas) <= room


EngineKey = tuple[str, DeviceShare, int]
"""An engine: model, share, and its number among equal engines of its arrangement."""


def engine_keys(arrangement: Arrangement) -> list[EngineKey]:
    """Return the engine that each replica of an arrangement runs on, in the order of the
    replicas.
    """
    found: list[EngineKey] = []
    for replica in arrangement.replicas:
        alike = (replica.model.spec.name, replica.share)
        found.append((*alike, sum(key[:2] == alike for key in found)))
    return found


def engines_of(arrangements: Sequence[Arrangement]) -> dict[EngineKey, Replica]:
    """Return the engines of all arrangements; equal engines of several arrangements are one."""
    return {
        key: replica
        for arrangement in arrangements
        for key, replica in zip(engine_keys(arrangement), arrangement.replicas, strict=True)
    }
