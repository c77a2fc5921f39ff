"""Finds what stops one more replica on a device, from the device's contents alone.

It uses placements and true figures, as the checker does, and shares no code with the packers except
`pools`: an explanation that repeats the solver's arithmetic would repeat its mistakes.
"""

import collections
import dataclasses
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final

from partitiond.core.hardware.kinds import Device, DeviceKind, SharingMode
from partitiond.core.mig.geometry import geometry_on, instance_bytes, usable_instances
from partitiond.core.model.spec import Isolation
from partitiond.core.performance.interference import (
    MAX_REPLICAS_PER_DEVICE,
    Interference,
    mode_overhead_bytes,
)
from partitiond.core.plan.record import Candidate, ModelDemand
from partitiond.core.units import format_bytes
from partitiond.planner.check.figures import level_together
from partitiond.planner.model.pools import Pool, usable_bytes
from partitiond.planner.model.ties import names_of

TOLERANCE: Final = 1e-6
CLOSE: Final = 0.98
"""Sizes from this share of the best size's rate per device on count as equally good. Chosen."""
KINDS: Final = {
    "hardware": ("No profile for the hardware", "Profile the model on this hardware."),
    "cordoned": ("Cordoned", "Take the cordon off, or add a device."),
    "only_on": ("A rule (only_on)", "Widen only_on."),
    "near": ("A rule (near)", "Take the other model out of near."),
    "avoid": ("A rule (avoid)", "Take the other model out of avoid."),
    "isolation": ("Isolation", "Free a device that others use, add one, or lower the isolation."),
    "group": ("Isolation groups", "Use another sharing mode or device, or one group for both."),
    "mode": (
        "Another sharing mode",
        "Allow the mode on a device, free one that others use, or profile another mode.",
    ),
    "replicas": ("The device's own limit", "Raise max_replicas of the device, or add a device."),
    "slices": (
        "No MIG slice left",
        "Profile it in another size, or free the memory slices that others hold.",
    ),
    "fixed": (
        "No MIG slice left",
        "Make such an instance (`partitiond devices mig apply`), or let plans make it: set "
        "gpu.mig_changes to instances.",
    ),
    "memory": (
        "Too little memory",
        "Use a larger device or slice, a shorter context or a smaller model.",
    ),
    "SMs": ("Too few SMs", "Profile a smaller size, lower occupied_sm_percent, or add a device."),
    "cores": ("Too few cores", "Profile it on fewer cores, or use a larger device."),
    "host": ("Too little left of the host", "Add memory or cores to a host."),
    "interference": ("Too much interference", "Profile a smaller size, or use a larger device."),
    "SLO": ("Too much interference", "Loosen the SLO or use a faster device."),
}
"""Reasons that can stop a replica, in the order of the checks: the opening of a sentence about the
reason, and what would help if it stops a model on every device."""


@dataclasses.dataclass(frozen=True, slots=True)
class Blocker:
    """The reason that stops a replica on one device.

    Attributes:
        kind: one of `KINDS`, for counting.
        what: the reason in words, with figures.
        lacking: distance from fitting, as a share of what it needs; finds the closest reason.
    """

    kind: str
    what: str
    lacking: float = math.inf


@dataclasses.dataclass(frozen=True, slots=True)
class Neighbours:
    """Devices with their contents, and the demands of those models.

    Attributes:
        held: the sizes of the replicas on a device, by device id.
        demands: demands by model name.
        spare: capacity beyond the demand in requests/s, by model; infinite without a rate.
        left: by device id, what is left of the limits that it shares with devices of its host.
        on_hosts: hosts with the models they hold; None if `near` is ignored.
    """

    held: Mapping[str, Sequence[Candidate]]
    demands: Mapping[str, ModelDemand]
    spare: Mapping[str, float]
    interference: Interference
    left: Mapping[str, Sequence[tuple[Pool, int]]] = dataclasses.field(default_factory=dict)
    on_hosts: Collection[tuple[str, str]] | None = None


def room_bytes(device: Device, mode: SharingMode) -> int:
    """Return the device's memory for footprints when it is run in a mode."""
    return max(0, usable_bytes(device) - mode_overhead_bytes(mode))


def blocker(device: Device, candidate: Candidate, around: Neighbours) -> Blocker | None:
    """Return the first reason that stops one more replica on the device; None if it would fit."""
    here = around.held.get(device.id, ())
    return (
        _place(device, candidate, around)
        or _company(device, here, candidate, around)
        or _mode(device, here, candidate)
        or _memory(device, here, candidate)
        or _compute(device, here, candidate)
        or _host(device, candidate, around)
        or _crowd(device, here, candidate, around)
    )


def _place(device: Device, candidate: Candidate, around: Neighbours) -> Blocker | None:
    only = around.demands[candidate.model].rules.only_on
    if candidate.hardware != device.hardware:
        return Blocker("hardware", f"{device.short_id} is another kind of device")
    if device.cordoned:
        return Blocker("cordoned", f"{device.short_id} is cordoned")
    if only and names_of(device).isdisjoint(only):
        return Blocker("only_on", f"{device.short_id} is not among {', '.join(only)}")
    for other in around.demands[candidate.model].rules.near:
        there = around.on_hosts is None or (device.host, other) in around.on_hosts
        if not there and other != candidate.model:
            return Blocker("near", f"host {device.host} holds no {other}, which it must be near to")
    return None


def _company(
    device: Device, here: Sequence[Candidate], candidate: Candidate, around: Neighbours
) -> Blocker | None:
    mine, mig = around.demands[candidate.model], candidate.size.mode is SharingMode.MIG
    if (device.occupied_slices or device.occupied_sm_percent) and _alone(mine.isolation, mig=mig):
        return Blocker("isolation", f"other programs use a part of {device.short_id}")
    mps = all(c.size.mode is SharingMode.MPS for c in (*here, candidate))
    if mps and device.mps_group not in {None, mine.isolation_group}:
        return Blocker("group", f"another group has the MPS daemon of {device.short_id}")
    for model in dict.fromkeys(c.model for c in here):
        other = around.demands.get(model)
        if mps and other and other.isolation_group != mine.isolation_group:
            what = f"{device.short_id} holds {model} of another group, and an MPS daemon serves one"
            return Blocker("group", what)
        if model in mine.rules.avoid or (other and candidate.model in other.rules.avoid):
            what = f"{device.short_id} holds {model}, and the two avoid each other"
            return Blocker("avoid", what)
        for demand in (mine, other):
            if demand is not None and _alone(demand.isolation, mig=mig):
                return Blocker("isolation", f"{demand.model} shares its device with no other model")
    return None


def _alone(isolation: Isolation, *, mig: bool) -> bool:
    return isolation is Isolation.DEVICE or (isolation is Isolation.HARDWARE and not mig)


def _mode(device: Device, here: Sequence[Candidate], candidate: Candidate) -> Blocker | None:
    mode, name = candidate.size.mode, device.short_id
    if mode not in device.modes:
        return Blocker("mode", f"{name} allows {', '.join(device.modes) or 'no mode'}, not {mode}")
    if device.occupied_slices and mode is not SharingMode.MIG:
        return Blocker("mode", f"{name} is cut by MIG for other programs")
    if device.occupied_sm_percent and mode is not SharingMode.MPS:
        return Blocker("mode", f"{name} is used by other programs under MPS")
    if here and (here[0].size.mode is not mode or mode is SharingMode.WHOLE):
        return Blocker("mode", f"{name} is run in mode {here[0].size.mode}")
    most = MAX_REPLICAS_PER_DEVICE[mode]
    most = most if device.max_replicas is None else min(most, device.max_replicas)
    if len(here) >= most:
        return Blocker("replicas", f"{name} holds {len(here)} replicas and allows no more")
    return None


def _memory(device: Device, here: Sequence[Candidate], candidate: Candidate) -> Blocker | None:
    if candidate.size.mode is SharingMode.MIG:
        return _slices(device, here, candidate)
    need, held = candidate.memory_bytes, sum(c.memory_bytes for c in here)
    left = max(0, room_bytes(device, candidate.size.mode) - held)
    if need <= left:
        return None
    what = f"{device.short_id} has {format_bytes(left)} free, it needs {format_bytes(need)}"
    return Blocker("memory", what, 1 - left / need)


def _slices(device: Device, here: Sequence[Candidate], candidate: Candidate) -> Blocker | None:
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
        has, needs = format_bytes(room), format_bytes(need)
        what = f"{wanted} on {device.short_id} has {has}, it needs {needs}"
        return Blocker("memory", what, 1 - room / need)
    counts = collections.Counter(c.size.mig_profile for c in here)
    counts[wanted] += 1
    code = geometry.code(counts)
    if code is not None and geometry.holds(code):
        return None
    beside = ", ".join(f"{n}x {name}" for name, n in sorted(counts.items()) if name != wanted)
    what = f"no {wanted} fits on {device.short_id}" + f" beside {beside}" * bool(beside)
    return Blocker("slices", what)


def _instances_left(device: Device, here: Sequence[Candidate], wanted: str) -> Blocker | None:
    """Require an existing idle instance, if the geometry is fixed."""
    made = sum(i.mig_profile == wanted for i in device.mig_instances)
    idle = sum(i.mig_profile == wanted for i in usable_instances(device))
    if sum(c.size.mig_profile == wanted for c in here) < idle:
        return None
    why = f", and its {made} of {wanted} are taken"
    if idle == 0:
        why = f", and others use its instances of {wanted}"
    if made == 0:
        why = f" and has no instance of {wanted}"
    return Blocker("fixed", f"{device.short_id} may not be cut anew{why}")


def _compute(device: Device, here: Sequence[Candidate], candidate: Candidate) -> Blocker | None:
    name, size = device.short_id, candidate.size
    if size.mode is SharingMode.MPS:
        taken = device.occupied_sm_percent + sum(c.size.sm_percent for c in here)
        need, free = size.sm_percent, max(0, 100 - taken)
        if device.occupied_sm_percent >= 100:
            return Blocker("SMs", f"others hold all SMs of {name}", 1.0)
        if need > free:
            what = f"{name} has {free} % of its SMs free, it needs {need} %"
            return Blocker("SMs", what, 1 - free / need)
    if device.kind is DeviceKind.CPU or device.cores:
        need, free = size.cores, max(0, len(device.cores) - sum(c.size.cores for c in here))
        if need > free:
            what = f"{name} has {free} cores free, it needs {need}"
            return Blocker("cores", what, 1 - free / need)
    return None


def _host(device: Device, candidate: Candidate, around: Neighbours) -> Blocker | None:
    for pool, left in around.left.get(device.id, ()):
        need = pool.taken_by(candidate, device)
        if need > left:
            free, needs = f"{left} cores", f"{need}"
            if pool.kind == "host":
                free, needs = f"{format_bytes(left)} of memory", format_bytes(need)
            return Blocker("host", f"host {device.host} has {free} left, it needs {needs}")
    return None


def _crowd(
    device: Device, here: Sequence[Candidate], candidate: Candidate, around: Neighbours
) -> Blocker | None:
    """Check that all models there keep their SLO and demand when slowed by one more replica."""
    together, name = [*here, candidate], device.short_id
    before = level_together(here, around.interference) or 1.0
    level = level_together(together, around.interference)
    if level is None:
        return Blocker("interference", f"{name} would be slowed beyond all levels of interference")
    for c in together:
        slo = around.demands[c.model].slo if c.model in around.demands else None
        if slo is not None and (
            c.ttft_p95_seconds * level > slo.ttft_seconds * (1 + TOLERANCE)
            or c.tpot_p95_seconds * level > slo.tpot_seconds * (1 + TOLERANCE)
        ):
            how = f"would miss its SLO, slowed x{level:g}" if here else "misses its SLO even alone"
            return Blocker("SLO", f"{c.model} on {name} {how}")
    lost: dict[str, float] = collections.defaultdict(float)
    for c in here:
        lost[c.model] += c.capacity_req_per_s * (1 / before - 1 / level)
    for model, rate in lost.items():
        if model != candidate.model and rate > around.spare.get(model, 0.0) + TOLERANCE:
            what = f"{model} on {name} would fall below its demand, slowed x{level:g}"
            return Blocker("interference", what)
    return None


def most_alone(
    device: Device, demand: ModelDemand, candidate: Candidate, interference: Interference
) -> float:
    """Return the most requests/s that an empty device serves with one size, ignoring all else."""
    held: list[Candidate] = []
    around = Neighbours({device.id: held}, {demand.model: demand}, {}, interference)
    best = 0.0
    while blocker(device, candidate, around) is None:
        held.append(candidate)
        level = level_together(held, interference) or math.inf
        best = max(best, len(held) * candidate.capacity_req_per_s / level)
    return best


def alone(demand: ModelDemand, interference: Interference) -> Neighbours:
    """Return empty devices, for one model."""
    return Neighbours({}, {demand.model: demand}, {}, interference)


def closest(devices: Iterable[Device], demand: ModelDemand, around: Neighbours) -> Blocker | None:
    """Return what stops one more replica of a model, for the size that comes closest to fitting.

    None if one of its sizes fits one of the devices.
    """
    order = [*KINDS]
    stops = [Blocker("hardware", f"{demand.model} has no size that could be used there")]
    for device in devices:
        for candidate in demand.candidates:
            stop = blocker(device, candidate, around)
            if stop is None:
                return None
            stops.append(stop)
    return max(stops, key=lambda stop: (order.index(stop.kind), -stop.lacking))


def different(devices: Iterable[Device], demand: ModelDemand) -> list[Device]:
    """Return one device of each set of devices that are equal to a model while empty."""
    only = demand.rules.only_on
    found: dict[object, Device] = {}
    for d in devices:
        size = (d.hardware, d.memory_bytes, d.reserved_bytes, d.free_bytes, len(d.cores), d.modes)
        state = (d.cordoned, d.max_replicas, d.occupied_sm_percent, d.occupied_slices, d.mps_group)
        mig = (d.mig_profiles, d.mig_instances, d.mig_fixed)
        found.setdefault((size, state, mig, names_of(d).isdisjoint(only)), d)
    return list(found.values())


def counted(number: int, word: str) -> str:
    """Format a number with its word in the singular or plural."""
    return f"{number:,} {word}" if number == 1 else f"{number:,} {word}s"


def figure(value: float, digits: int = 3) -> str:
    """Format with some significant digits; large numbers whole and grouped, never as 1e+05."""
    if abs(value) >= 10 ** (digits - 1):
        return f"{value:,.0f}"
    return f"{value:.{digits}g}"
