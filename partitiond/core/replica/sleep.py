"""Decides which models fall asleep, scale to zero or are woken, and what sleepers hold. Pure.

An engine that sleeps keeps its process, and with it the device's context, captured graphs and
compiled kernels; it gives up its KV cache and its weights. At level 1 the weights wait in host
memory, at level 2 they are read from their files again. Waking takes a second or a few, a start a
minute. A model scaled to zero (`STOPPED`) goes further: it also gives up its processes, and holds
nothing. It is woken like the others; its engines are then started anew where there is room.

A model is asleep, or is to be, while it carries the mark `MARK` in the store, whose value is the
level. The reconciler brings the model's engines to that level; the planner leaves the model out and
counts what its engines hold (`devices_beside`).
"""

import dataclasses
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final

from partitiond.core.hardware.kinds import Device, DeviceKind
from partitiond.core.hardware.partition import (
    CpuCores,
    MemoryShare,
    MigSlice,
    MpsShare,
    Partition,
    WholeDevice,
)
from partitiond.core.model.spec import ModelSpec
from partitiond.core.plan.record import Candidate, Placement
from partitiond.core.units import ZERO_BYTES, Bytes

MARK: Final = "asleep"
"""Kind of the store's mark; its subject is the model, its value the level."""

LEVELS: Final = (1, 2)
"""Levels that people can ask for."""

STOPPED: Final = 3
"""The level of a model scaled to zero: none of its engines has a process. Only for models that
scale to zero by themselves or are woken again; it works without the engine's sleep mode."""

_AWAKE: Final[Mapping[str, int]] = {}
_JUST_NOW: Final[Mapping[str, float]] = {}


@dataclasses.dataclass(frozen=True, slots=True)
class Traffic:
    """Traffic of one model as the proxy reports it.

    Attributes:
        waiting: requests that wait for a replica.
        idle_seconds: time since its last request, waiting or running; 0 while it has one.
    """

    waiting: int
    idle_seconds: float


@dataclasses.dataclass(frozen=True, slots=True)
class Sleeper:
    """A replica of a model that sleeps, for the planner."""

    placement: Placement
    level: int


def level_of(value: str) -> int:
    """Return the level that a mark's value stands for; 1 if the value cannot be read."""
    return int(value) if value in {str(level) for level in (*LEVELS, STOPPED)} else 1


def said_asleep(level: int) -> str:
    """Describe a model that is to sleep at a level; empty if it is to be awake."""
    if level == STOPPED:
        return "is scaled to zero, and the next request starts it"
    return f"is asleep (level {level})" if level else ""


def held_bytes(candidate: Candidate, partition: Partition, level: int) -> Bytes:
    """Return the device memory that an engine of the candidate holds asleep; at most its
    partition's.

    If that is not known, it counts as everything: nothing is given away on a guess.
    """
    if level == STOPPED:
        return ZERO_BYTES
    asleep = candidate.asleep
    if asleep is None:
        return partition.memory_bytes
    held = asleep.level_1_bytes if level == 1 else asleep.level_2_bytes
    return min(held, partition.memory_bytes)


def stays(level: int, can_sleep: bool) -> bool:
    """Return whether an engine keeps its process while its model is to sleep at a level; 0 is
    awake.
    """
    return level == 0 or (can_sleep and level != STOPPED)


def asleep_partition(placement: Placement, level: int) -> Partition:
    """Return the partition as its engine holds it asleep.

    The device keeps its sharing mode: the engine's context stays, and no other mode can be set
    beside it. SMs and cores are free for others, since the engine computes nothing. A MIG slice
    stays taken as a whole: it cannot be destroyed under a context, and holds one replica.
    """
    partition = placement.partition
    memory = held_bytes(placement.candidate, partition, level)
    match partition:
        case MigSlice():
            return partition
        case MpsShare():
            return dataclasses.replace(partition, memory_bytes=memory, sm_percent=0)
        case CpuCores():
            return dataclasses.replace(partition, memory_bytes=memory, cores=())
        case WholeDevice() | MemoryShare():
            return MemoryShare(partition.device_id, memory)


def host_bytes(placement: Placement, level: int) -> int:
    """Return the host memory of an engine asleep on a GPU: its processes', and the weights at level
    1.
    """
    if level == STOPPED:
        return 0
    candidate = placement.candidate
    weights = candidate.asleep.host_bytes if candidate.asleep is not None and level == 1 else 0
    return candidate.host_memory_bytes + weights


def sleepers(placements: Iterable[Placement], asleep: Mapping[str, int]) -> tuple[Sleeper, ...]:
    """Return the replicas of the models that are asleep."""
    return tuple(Sleeper(p, asleep[p.model]) for p in placements if p.model in asleep)


def devices_beside(devices: Sequence[Device], here: Collection[Sleeper]) -> tuple[Device, ...]:
    """Return devices as they are for other engines: memory that sleepers hold is not free.

    The host memory of sleepers on GPUs is taken from the CPU device of their host, if there is
    one, because engines' host memory is planned against that device.
    """
    return tuple(_beside(device, devices, here) for device in devices)


def host_memory(
    devices: Sequence[Device], here: Collection[Sleeper], told_bytes: Mapping[str, int]
) -> tuple[tuple[str, int], ...]:
    """Return the memory for engines awake, by host, for hosts without a CPU device that reports it.

    Args:
        told_bytes: memory that each host has for engines, including sleeping ones; no limit on a
            host that is not listed.
    """
    with_cpu = {device.host for device in devices if device.kind is DeviceKind.CPU}
    found = []
    for host in sorted(({device.host for device in devices} - with_cpu) & told_bytes.keys()):
        on_host = {device.id for device in devices if device.host == host}
        asleep = [s for s in here if s.placement.device_id in on_host]
        held_there = sum(host_bytes(s.placement, s.level) for s in asleep)
        found.append((host, max(0, told_bytes[host] - held_there)))
    return tuple(found)


def _beside(device: Device, devices: Sequence[Device], here: Collection[Sleeper]) -> Device:
    here = [sleeper for sleeper in here if sleeper.level != STOPPED]
    own = [s for s in here if s.placement.device_id == device.id]
    on_gpus = [s for s in here if device.kind is DeviceKind.CPU and _is_beside(s, device, devices)]
    if not own and not on_gpus:
        return device
    taken: int = sum(asleep_partition(s.placement, s.level).memory_bytes for s in own)
    taken += sum(host_bytes(s.placement, s.level) for s in on_gpus)
    slices = {n for s in own for n in _slices(asleep_partition(s.placement, s.level))}
    modes = {asleep_partition(s.placement, s.level).mode for s in own}
    shares = (s.placement.partition for s in own)
    groups = [share.isolation_group for share in shares if isinstance(share, MpsShare)]
    return dataclasses.replace(
        device,
        free_bytes=Bytes(max(ZERO_BYTES, device.free_bytes - taken)),
        occupied_slices=tuple(sorted({*device.occupied_slices, *slices})),
        modes=tuple(mode for mode in device.modes if not modes or mode in modes),
        mps_group=next(iter(groups), device.mps_group),
    )


def _is_beside(sleeper: Sleeper, cpu: Device, devices: Sequence[Device]) -> bool:
    """Return whether the sleeper is on a GPU of the CPU's host."""
    on = sleeper.placement.device_id
    return any(d.id == on and d.host == cpu.host and d.kind is DeviceKind.GPU for d in devices)


def _slices(partition: Partition) -> range:
    """Return the memory slices of a MIG slice."""
    if not isinstance(partition, MigSlice):
        return range(0)
    return range(partition.slice_start, partition.slice_start + partition.slice_count)


def scales_to_zero(spec: ModelSpec) -> bool:
    """Return whether the model may give up its engines by itself."""
    return spec.autoscale is not None and spec.autoscale.scale_to_zero_seconds is not None


def idle_rules(spec: ModelSpec) -> tuple[tuple[int, float], ...]:
    """Return (level, seconds without a request) of each level that it enters by itself, lightest
    first.

    A model that scales to zero sleeps if its engine can, so that it is back in seconds. If it
    already has an idle rule for sleeping, it gives up its processes, too.
    """
    rules = [] if spec.sleep_after_seconds is None else [(1, spec.sleep_after_seconds)]
    zero = None if spec.autoscale is None else spec.autoscale.scale_to_zero_seconds
    if zero is not None:
        sleeps = spec.engine.sleep_mode and not rules
        rules.append((1 if sleeps else STOPPED, zero))
    return tuple(rules)


def to_stop(
    after_seconds: Mapping[str, float], traffic: Mapping[str, Traffic], asleep: Mapping[str, int]
) -> tuple[str, ...]:
    """Return sleeping models that had no request for so long that they give up their processes."""
    return tuple(
        sorted(
            model
            for model, seconds in after_seconds.items()
            if 0 < asleep.get(model, 0) < STOPPED
            and model in traffic
            and traffic[model].waiting == 0
            and traffic[model].idle_seconds >= seconds
        )
    )


def waited_for(
    specs: Iterable[ModelSpec], asleep: Mapping[str, int], serving: Collection[str]
) -> frozenset[str]:
    """Return models without a replica whose requests still wait: scaled to zero, or starting again.

    Args:
        serving: models with a replica that serves.
    """
    return frozenset(
        spec.name
        for spec in specs
        if asleep.get(spec.name) == STOPPED
        or (scales_to_zero(spec) and spec.name not in asleep and spec.name not in serving)
    )


def to_wake(
    asleep: Mapping[str, int],
    traffic: Mapping[str, Traffic],
    since: Mapping[str, float] = _JUST_NOW,
) -> tuple[str, ...]:
    """Return sleeping models that requests wait for, the longest wait first, then by name.

    If not all find room, the order by name alone would give it to the same models again and again.

    Args:
        since: when each model was first seen waiting; a model that is missing waits since just now.
    """
    waiting = [m for m in asleep if m in traffic and traffic[m].waiting > 0]
    return tuple(sorted(waiting, key=lambda m: (since.get(m, math.inf), m)))


def to_put_to_sleep(
    after_seconds: Mapping[str, float],
    traffic: Mapping[str, Traffic],
    serving_seconds: Mapping[str, float],
    asleep: Mapping[str, int] = _AWAKE,
) -> tuple[str, ...]:
    """Return models that had no request for as long as their idle rule says, by name.

    Args:
        after_seconds: the rule of each model that has one.
        traffic: nothing is decided about a model that the proxy does not report.
        serving_seconds: since the last replica of a model began to serve; models with a replica
            that is not there yet are left out. A model that just came or woke gets its whole time.
        asleep: models that sleep already.
    """
    return tuple(
        sorted(
            model
            for model, seconds in after_seconds.items()
            if model not in asleep
            and model in traffic
            and traffic[model].waiting == 0
            and min(traffic[model].idle_seconds, serving_seconds.get(model, 0.0)) >= seconds
        )
    )
