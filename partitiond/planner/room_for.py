"""What stops one more replica on a device, from what the device holds and nothing else.

Speaks of placements and true figures, as the checker does, and shares no code with the packers: an
explanation that repeats the solver's arithmetic would repeat its mistakes.
"""

import collections
import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Final

from partitiond.core.hardware import Device, DeviceKind, SharingMode, headroom_bytes
from partitiond.core.interference import (
    MAX_REPLICAS_PER_DEVICE,
    Interference,
    level_of,
    mode_overhead_bytes,
    sigma,
)
from partitiond.core.mig import geometry_on, instance_bytes, usable_instances
from partitiond.core.partition import CpuCores
from partitiond.core.plan import Candidate, ModelDemand, Placement
from partitiond.core.spec import Isolation
from partitiond.core.units import format_bytes

TOLERANCE: Final = 1e-6


@dataclasses.dataclass(frozen=True, slots=True)
class Blocker:
    """What stops a replica on one device.

    Attributes:
        kind: one word, to count by: memory, SMs, cores, slices, mode, ...
        what: in words, with figures.
        lacking: how far it is from fitting, as a share of what it needs; to name the nearest.
    """

    kind: str
    what: str
    lacking: float = math.inf


@dataclasses.dataclass(frozen=True, slots=True)
class Neighbours:
    """Devices with what they hold, and the demands behind it.

    Attributes:
        demands: by model name.
        spare: capacity beyond its demand in requests/s, by model; infinite without a rate.
    """

    held: Mapping[str, tuple[Placement, ...]]
    demands: Mapping[str, ModelDemand]
    spare: Mapping[str, float]
    interference: Interference


def room_bytes(device: Device, mode: SharingMode) -> int:
    """Memory for footprints on the device when it is run in a mode."""
    usable = min(device.memory_bytes - device.reserved_bytes, device.free_bytes)
    return max(0, usable - headroom_bytes(device.memory_bytes) - mode_overhead_bytes(mode))


def blocker(device: Device, candidate: Candidate, around: Neighbours) -> Blocker | None:
    """The first thing that stops one more replica there; None where it would fit."""
    here = around.held.get(device.id, ())
    return (
        _place(device, candidate, around)
        or _company(device, here, candidate, around)
        or _mode(device, here, candidate)
        or _memory(device, here, candidate)
        or _compute(device, here, candidate)
        or _crowd(device, here, candidate, around)
    )


def _place(device: Device, candidate: Candidate, around: Neighbours) -> Blocker | None:
    only = around.demands[candidate.model].rules.only_on
    if device.cordoned:
        return Blocker("cordoned", f"{device.short_id} is cordoned")
    if candidate.hardware != device.hardware:
        return Blocker("hardware", f"{device.short_id} is another kind of device")
    if only and not set(only) & {device.id, device.host, device.rack, device.hardware}:
        return Blocker("only_on", f"{device.short_id} is not among {', '.join(only)}")
    return None


def _company(
    device: Device, here: Sequence[Placement], candidate: Candidate, around: Neighbours
) -> Blocker | None:
    mine = around.demands[candidate.model]
    others = device.occupied_slices or device.occupied_sm_percent
    if others and _alone(mine.isolation, mig=candidate.size.mode is SharingMode.MIG):
        return Blocker("isolation", f"others use a part of {device.short_id}")
    for p in here:
        other = around.demands.get(p.model)
        avoids = p.model in mine.rules.avoid or (
            other is not None and candidate.model in other.rules.avoid
        )
        if avoids:
            return Blocker(
                "avoid", f"{device.short_id} holds {p.model}, and the two avoid each other"
            )
        mig = candidate.size.mode is SharingMode.MIG
        for demand in (mine, other):
            if demand is not None and _alone(demand.isolation, mig=mig):
                return Blocker("isolation", f"{demand.model} shares its device with nobody")
    return None


def _alone(isolation: Isolation, *, mig: bool) -> bool:
    return isolation is Isolation.DEVICE or (isolation is Isolation.HARDWARE and not mig)


def _mode(device: Device, here: Sequence[Placement], candidate: Candidate) -> Blocker | None:
    mode = candidate.size.mode
    if mode not in device.modes:
        return Blocker("mode", f"{device.short_id} does not allow {mode}")
    if device.occupied_slices and mode is not SharingMode.MIG:
        return Blocker("mode", f"{device.short_id} is cut by MIG for others")
    if device.occupied_sm_percent and mode is not SharingMode.MPS:
        return Blocker("mode", f"{device.short_id} is used by others under MPS")
    if here and (here[0].partition.mode is not mode or mode is SharingMode.WHOLE):
        return Blocker("mode", f"{device.short_id} is run in mode {here[0].partition.mode}")
    most = MAX_REPLICAS_PER_DEVICE[mode]
    most = most if device.max_replicas is None else min(most, device.max_replicas)
    if len(here) >= most:
        return Blocker(
            "replicas", f"{device.short_id} holds {len(here)} replicas and allows no more"
        )
    return None


def _memory(device: Device, here: Sequence[Placement], candidate: Candidate) -> Blocker | None:
    if candidate.size.mode is SharingMode.MIG:
        return slices_blocker(device, here, candidate)
    free = room_bytes(device, candidate.size.mode) - sum(p.partition.memory_bytes for p in here)
    if candidate.memory_bytes <= free:
        return None
    need, left = candidate.memory_bytes, max(0, free)
    what = f"{device.short_id} has {format_bytes(left)} free, it needs {format_bytes(need)}"
    return Blocker("memory", what, 1 - left / need)


def slices_blocker(
    device: Device, here: Sequence[Placement], candidate: Candidate
) -> Blocker | None:
    """What stops one more GPU instance on a device, beside those it holds."""
    geometry = geometry_on(device)
    wanted = candidate.size.mig_profile
    if device.mig_fixed:
        stop = _instances_left(device, here, wanted)
        if stop is not None:
            return stop
    position = None if geometry is None else geometry.index(wanted)
    if geometry is None or position is None:
        return Blocker("slices", f"{device.short_id} has no MIG profile {wanted}")
    need, room = candidate.memory_bytes, instance_bytes(geometry.profiles[position])
    if need > room:
        what = (
            f"{wanted} on {device.short_id} has {format_bytes(room)}, it needs {format_bytes(need)}"
        )
        return Blocker("memory", what, 1 - room / need)
    counts = collections.Counter(p.candidate.size.mig_profile for p in here)
    counts[wanted] += 1
    code = geometry.code(counts)
    if code is not None and geometry.holds(code):
        return None
    beside = ", ".join(f"{n}x {name}" for name, n in sorted(counts.items()) if name != wanted)
    return Blocker(
        "slices", f"no {wanted} fits on {device.short_id}" + (f" beside {beside}" if beside else "")
    )


def _instances_left(device: Device, here: Sequence[Placement], wanted: str) -> Blocker | None:
    """Where the geometry is fixed, an instance has to exist, and to have nobody in it."""
    made = sum(i.mig_profile == wanted for i in device.mig_instances)
    idle = sum(i.mig_profile == wanted for i in usable_instances(device))
    taken = sum(p.candidate.size.mig_profile == wanted for p in here)
    if taken < idle:
        return None
    fixed = f"{device.short_id} may not be cut anew"
    if made == 0:
        return Blocker("slices", f"{fixed} and has no instance of {wanted}")
    if idle == 0:
        return Blocker("slices", f"{fixed}, and others use its instances of {wanted}")
    return Blocker("slices", f"{fixed}, and its {made} of {wanted} are taken")


def _compute(device: Device, here: Sequence[Placement], candidate: Candidate) -> Blocker | None:
    if candidate.size.mode is SharingMode.MPS:
        taken = device.occupied_sm_percent + sum(p.candidate.size.sm_percent for p in here)
        need, free = candidate.size.sm_percent, max(0, 100 - taken)
        if need > free:
            what = f"{device.short_id} has {free} % of its SMs free, it needs {need} %"
            return Blocker("SMs", what, 1 - free / need)
    if device.kind is DeviceKind.CPU or device.cores:
        used = sum(
            len(p.partition.cores) if isinstance(p.partition, CpuCores) else p.candidate.size.cores
            for p in here
        )
        need, free = candidate.size.cores, max(0, len(device.cores) - used)
        if need > free:
            what = f"{device.short_id} has {free} cores free, it needs {need}"
            return Blocker("cores", what, 1 - free / need)
    return None


def _crowd(
    device: Device, here: Sequence[Placement], candidate: Candidate, around: Neighbours
) -> Blocker | None:
    """Whether everyone there still holds its SLO and its demand when slowed by one more."""
    together = [*(p.candidate for p in here), candidate]
    before = _level([p.candidate for p in here], around.interference) or 1.0
    level = _level(together, around.interference)
    if level is None:
        return Blocker("interference", f"{device.short_id} would be shared by too many")
    for c in together:
        slo = around.demands[c.model].slo if c.model in around.demands else None
        if slo is not None and (
            c.ttft_p95_seconds * level > slo.ttft_seconds * (1 + TOLERANCE)
            or c.tpot_p95_seconds * level > slo.tpot_seconds * (1 + TOLERANCE)
        ):
            return Blocker(
                "interference",
                f"{c.model} on {device.short_id} would miss its SLO, slowed x{level:g}",
            )
    lost: dict[str, float] = collections.defaultdict(float)
    for p in here:
        lost[p.model] += p.candidate.capacity_req_per_s * (1 / before - 1 / level)
    for model, rate in lost.items():
        if model != candidate.model and rate > around.spare.get(model, 0.0) + TOLERANCE:
            return Blocker(
                "interference",
                f"{model} on {device.short_id} would fall below its demand, slowed x{level:g}",
            )
    return None


def _level(candidates: Sequence[Candidate], interference: Interference) -> float | None:
    if not candidates:
        return 1.0
    mode = candidates[0].size.mode
    slowed = sigma(mode, [c.busy for c in candidates], interference, [c.kappa for c in candidates])
    return level_of(mode, slowed, interference)


def most_alone(
    device: Device, demand: ModelDemand, candidate: Candidate, interference: Interference
) -> tuple[int, float]:
    """Replicas and requests/s of one size that an empty device serves at best, all else aside."""
    around = Neighbours({}, {demand.model: demand}, {}, interference)
    held: list[Candidate] = []
    best = (0, 0.0)
    while len(held) < MAX_REPLICAS_PER_DEVICE[candidate.size.mode]:
        if not _fits_alone(device, held, candidate, around):
            break
        held.append(candidate)
        level = _level(held, around.interference)
        slo = demand.slo
        if level is None or (
            slo is not None and candidate.tpot_p95_seconds * level > slo.tpot_seconds
        ):
            break
        if slo is not None and candidate.ttft_p95_seconds * level > slo.ttft_seconds:
            break
        rate = len(held) * candidate.capacity_req_per_s / level
        if rate > best[1] * (1 + TOLERANCE):
            best = (len(held), rate)
        if _alone(demand.isolation, mig=candidate.size.mode is SharingMode.MIG):
            break
    return best


def _fits_alone(
    device: Device, held: Sequence[Candidate], candidate: Candidate, around: Neighbours
) -> bool:
    size, count = candidate.size, len(held) + 1
    stop = _place(device, candidate, around) or _company(device, (), candidate, around)
    if stop is not None or _mode(device, (), candidate) is not None:
        return False
    if device.max_replicas is not None and count > device.max_replicas:
        return False
    if size.mode is SharingMode.WHOLE and count > 1:
        return False
    if size.mode is SharingMode.MIG:
        geometry = geometry_on(device)
        code = None if geometry is None else geometry.code({size.mig_profile: count})
        if geometry is None or code is None or not geometry.holds(code):
            return False
    elif count * candidate.memory_bytes > room_bytes(device, size.mode):
        return False
    sm_free = 100 - device.occupied_sm_percent
    if size.mode is SharingMode.MPS and count * size.sm_percent > sm_free:
        return False
    return not device.cores or count * size.cores <= len(device.cores)
