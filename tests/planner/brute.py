"""Finds the best plan's value by trying everything: every way to load all devices together.

The module uses nothing of the planner, only core's figures, and states the rules of the problem
once more in the plainest way. It is for tiny instances only.
"""

import collections
import dataclasses
import itertools
import math
from collections.abc import Collection, Iterator, Mapping

from partitiond.core.hardware.gpus import HARDWARE
from partitiond.core.hardware.kinds import Device, DeviceKind, SharingMode, headroom_bytes
from partitiond.core.model.spec import FaultDomain, Isolation
from partitiond.core.performance.interference import (
    DEFAULT,
    MAX_REPLICAS_PER_DEVICE,
    Interference,
    level_of,
    mode_overhead_bytes,
    sigma,
)
from partitiond.core.plan.costs import idle_watts, max_watts, replica_watts
from partitiond.core.plan.record import Candidate, ModelDemand, Objective

MOST_COPIES = 7
"""Of one candidate on one device; the instances are made so that more never fit."""
STARTS = {1: range(7), 2: (0, 2, 4, 6), 4: (0, 4), 8: (0,)}
"""First memory slices of MIG instances by their size; those of two compute slices or four of each
have fewer."""

Chosen = list[tuple[ModelDemand, Candidate]]


@dataclasses.dataclass(frozen=True)
class Pattern:
    """What one device holds: replicas and rate by model, and what it costs and takes.

    Attributes:
        held: (replicas, requests/s) by model.
        watts: what the replicas are charged under min-energy.
        host_bytes: of the host's memory.
    """

    held: tuple[tuple[str, int, float], ...] = ()
    watts: float = 0.0
    host_bytes: int = 0

    def of(self, model: str) -> tuple[int, float]:
        """Replicas and rate of a model."""
        return next(((n, rate) for name, n, rate in self.held if name == model), (0, 0.0))


Loads = tuple[Pattern, ...]


def patterns(
    device: Device, models: tuple[ModelDemand, ...], interference: Interference = DEFAULT
) -> list[Pattern]:
    """Everything one device can hold."""
    found: dict[Pattern, None] = {Pattern(): None}
    places = {device.id, device.host, device.rack, device.hardware}
    for mode in device.modes if not device.cordoned else ():
        mine = [
            (demand, c)
            for demand in models
            for c in demand.candidates
            if c.size.mode is mode
            and c.hardware == device.hardware
            and (not demand.rules.only_on or places & set(demand.rules.only_on))
        ]
        for chosen in _multisets(device, mode, mine):
            pattern = _pattern(device, mode, chosen, interference)
            if pattern is not None:
                found[pattern] = None
    return list(found)


def _multisets(device: Device, mode: SharingMode, mine: Chosen) -> Iterator[Chosen]:
    """Non-empty multisets that the device has memory for."""
    room = min(device.memory_bytes - device.reserved_bytes, device.free_bytes)
    room -= headroom_bytes(device.memory_bytes) + mode_overhead_bytes(mode)
    limit = MAX_REPLICAS_PER_DEVICE[mode]
    if device.max_replicas is not None:
        limit = min(limit, device.max_replicas)

    def grow(rest: Chosen, left: int, number: int) -> Iterator[Chosen]:
        if not rest:
            yield []
            return
        head, *tail = rest
        size = _weight(device, mode, head[1])
        most = min(MOST_COPIES, number, left // size)
        for count in range(most + 1):
            for more in grow(tail, left - count * size, number - count):
                yield [head] * count + more

    whole = room if mode is not SharingMode.MIG else 8
    return (chosen for chosen in grow(mine, whole, limit) if chosen)


def _weight(device: Device, mode: SharingMode, c: Candidate) -> int:
    """What a replica takes at least: memory, or memory slices."""
    if mode is not SharingMode.MIG:
        return c.memory_bytes
    profiles = HARDWARE[device.hardware].mig_profiles
    return next((p.memory_slices for p in profiles if p.name == c.size.mig_profile), 9)


def _pattern(
    device: Device, mode: SharingMode, chosen: Chosen, interference: Interference
) -> Pattern | None:
    if not _allowed(device, mode, chosen):
        return None
    candidates = [c for _, c in chosen]
    level: float | None = 1.0
    if mode is not SharingMode.MIG:
        kappas = [c.kappa for c in candidates]
        slow = sigma(mode, (c.busy for c in candidates), interference, kappas)
        level = level_of(mode, slow, interference)
    if level is None or not all(_holds_slo(demand, c, level) for demand, c in chosen):
        return None
    on_cpu = device.kind is DeviceKind.CPU
    held: dict[str, tuple[int, float]] = {}
    for demand, c in chosen:
        count, rate = held.get(demand.model, (0, 0.0))
        held[demand.model] = (count + 1, rate + c.capacity_req_per_s / level)
    return Pattern(
        held=tuple(sorted((name, n, round(rate, 9)) for name, (n, rate) in held.items())),
        watts=round(math.fsum(_charged(demand, c) for demand, c in chosen), 9),
        host_bytes=sum(c.memory_bytes if on_cpu else c.host_memory_bytes for c in candidates),
    )


def _allowed(device: Device, mode: SharingMode, chosen: Chosen) -> bool:
    """Isolation, its groups, avoidance, compute and the geometry of MIG."""
    others = bool(device.occupied_slices or device.occupied_sm_percent)
    if device.occupied_slices and mode is not SharingMode.MIG:
        return False
    if device.occupied_sm_percent and mode is not SharingMode.MPS:
        return False
    alone = len(chosen) == 1 and not others
    for demand, _ in chosen:
        walled = demand.isolation is Isolation.HARDWARE and mode is SharingMode.MIG
        if demand.isolation is not Isolation.SHARED and not walled and not alone:
            return False
    names = {demand.model for demand, _ in chosen}
    if any(names & set(demand.rules.avoid) for demand, _ in chosen):
        return False
    if mode is SharingMode.WHOLE and not alone:
        return False
    groups = {demand.isolation_group for demand, _ in chosen} | ({device.mps_group} - {None})
    if mode is SharingMode.MPS and len(groups) > 1:
        return False
    percent = sum(c.size.sm_percent for _, c in chosen) if mode is SharingMode.MPS else 0
    if percent > 100 - device.occupied_sm_percent:
        return False
    if device.cores and sum(c.size.cores for _, c in chosen) > len(device.cores):
        return False
    return mode is not SharingMode.MIG or _placeable(device, [c for _, c in chosen])


def _placeable(device: Device, chosen: list[Candidate]) -> bool:
    """Whether the instances have places, by trying every start of every one."""
    offered = {p.name: p for p in HARDWARE[device.hardware].mig_profiles}
    wanted = [offered.get(c.size.mig_profile) for c in chosen]
    numbers = collections.Counter(c.size.mig_profile for c in chosen)
    for c, profile in zip(chosen, wanted, strict=True):
        if profile is None or numbers[profile.name] > profile.max_instances:
            return False
        if c.memory_bytes > profile.memory_bytes - headroom_bytes(profile.memory_bytes):
            return False

    def place(left: list[tuple[int, int]], taken: frozenset[int]) -> bool:
        if not left:
            return True
        (compute, size), *rest = left
        starts = [s for s in STARTS[size] if (size, compute) != (4, 4) or s == 0]
        starts = [s for s in starts if (size, compute) != (2, 2) or s < 6]
        spots = (frozenset(range(s, s + size)) for s in starts)
        return any(place(rest, taken | spot) for spot in spots if not spot & taken)

    left = [(p.compute_slices, p.memory_slices) for p in wanted if p is not None]
    return place(sorted(left, key=lambda p: -p[1]), frozenset(device.occupied_slices))


def _holds_slo(demand: ModelDemand, c: Candidate, level: float) -> bool:
    slo = demand.slo
    return slo is None or (
        c.ttft_p95_seconds * level <= slo.ttft_seconds
        and c.tpot_p95_seconds * level <= slo.tpot_seconds
    )


def _charged(demand: ModelDemand, c: Candidate) -> float:
    if c.watts is None:
        return 0.0
    return replica_watts(
        c.watts,
        c.capacity_req_per_s,
        demand.demand.planned_req_per_s,
        demand.min_replicas,
    )


def try_everything(
    devices: tuple[Device, ...], models: tuple[ModelDemand, ...], objective: Objective
) -> float | None:
    """The best value over all ways to load the devices.

    None where nothing keeps the rules and the least numbers of replicas and, for objectives that
    are a cost, serves everything.
    """
    every = [patterns(device, models) for device in devices]
    # Models that fit no device are left out of shares, which they would always make 0.
    able = _able(models, {n for mine in every for pattern in mine for n, _, _ in pattern.held})
    values = (
        value
        for loads in itertools.product(*every)
        if (value := plan_value(devices, models, loads, objective, able)) is not None
    )
    return min(values, default=None) if objective.is_cost else max(values, default=None)


def _able(models: tuple[ModelDemand, ...], fitting: set[str]) -> set[str]:
    """Models that fit a device, without those that have to be near to one that does not."""
    able = set(fitting)
    while stranded := {m.model for m in models if m.model in able and set(m.rules.near) - able}:
        able -= stranded
    return able


def plan_value(
    devices: tuple[Device, ...],
    models: tuple[ModelDemand, ...],
    loads: Loads,
    objective: Objective,
    able: Collection[str],
) -> float | None:
    """What a way to load the devices is worth; None where it is not allowed.

    Args:
        devices: of the question.
        models: of the question.
        loads: what is on each device.
        objective: what counts.
        able: models that fit some device.
    """
    if not _numbers_hold(models, loads, objective) or not _company_holds(devices, models, loads):
        return None
    if not _host_memory_holds(devices, loads):
        return None
    if objective.is_cost:
        if not all(_served(devices, m, loads) for m in models):
            return None
        return _cost(devices, loads, objective)
    rates = {m.model: math.fsum(load.of(m.model)[1] for load in loads) for m in models}
    if objective is Objective.MAX_GOODPUT:
        return _goodput(models, rates)
    left = {m.model: _left(devices, m, loads) for m in models if m.rules.survive is not None}
    return _smallest_share(models, able, rates, left, objective)


def _numbers_hold(models: tuple[ModelDemand, ...], loads: Loads, objective: Objective) -> bool:
    for m in models:
        count = sum(load.of(m.model)[0] for load in loads)
        rated = m.demand.planned_req_per_s is not None
        least = max(1 if objective.is_cost or not rated else 0, m.min_replicas)
        if count < least or (m.max_replicas is not None and count > m.max_replicas):
            return False
    return True


def _company_holds(
    devices: tuple[Device, ...], models: tuple[ModelDemand, ...], loads: Loads
) -> bool:
    on_host: dict[str, set[str]] = collections.defaultdict(set)
    for device, load in zip(devices, loads, strict=True):
        on_host[device.host] |= {name for name, _, _ in load.held}
    return all(
        set(m.rules.near) <= held for m in models for held in on_host.values() if m.model in held
    )


def _host_memory_holds(devices: tuple[Device, ...], loads: Loads) -> bool:
    used: dict[str, int] = collections.defaultdict(int)
    for device, load in zip(devices, loads, strict=True):
        used[device.host] += load.host_bytes
    return all(
        used[d.host]
        <= min(d.memory_bytes - d.reserved_bytes, d.free_bytes) - headroom_bytes(d.memory_bytes)
        for d in devices
        if d.kind is DeviceKind.CPU
    )


def _served(devices: tuple[Device, ...], model: ModelDemand, loads: Loads) -> bool:
    """The planned rate, and what has to be left of it without any one fault domain."""
    planned = model.demand.planned_req_per_s
    rate = math.fsum(load.of(model.model)[1] for load in loads)
    if planned is not None and rate < planned - 1e-9:
        return False
    kind = model.rules.survive
    if kind is None:
        return True
    for lost in {_domain(d, kind) for d in devices}:
        left = [
            load.of(model.model)
            for d, load in zip(devices, loads, strict=True)
            if _domain(d, kind) != lost
        ]
        if planned is None and not any(count for count, _ in left):
            return False
        wanted = 0.0 if planned is None else planned * model.rules.survive_share
        if math.fsum(rate for _, rate in left) < wanted - 1e-9:
            return False
    return True


def _left(devices: tuple[Device, ...], model: ModelDemand, loads: Loads) -> float:
    """Requests/s without the fault domain whose loss leaves least."""
    kind = model.rules.survive
    assert kind is not None
    return min(
        math.fsum(
            load.of(model.model)[1]
            for d, load in zip(devices, loads, strict=True)
            if _domain(d, kind) != lost
        )
        for lost in {_domain(d, kind) for d in devices}
    )


def _domain(device: Device, kind: FaultDomain) -> str:
    if kind is FaultDomain.DEVICE:
        return device.id
    return device.rack or device.host if kind is FaultDomain.RACK else device.host


def _cost(devices: tuple[Device, ...], loads: Loads, objective: Objective) -> float:
    used = [(d, load) for d, load in zip(devices, loads, strict=True) if load.held]
    match objective:
        case Objective.MIN_DEVICES:
            return float(len(used))
        case Objective.MIN_PRICE:
            return math.fsum(d.price_per_hour for d, _ in used)
        case Objective.MIN_POWER:
            return math.fsum(max_watts(d) or 0.0 for d, _ in used)
        case _:
            return math.fsum((idle_watts(d) or 0.0) + load.watts for d, load in used)


def _goodput(models: tuple[ModelDemand, ...], rates: Mapping[str, float]) -> float:
    rated = [m for m in models if m.demand.planned_req_per_s is not None]
    return math.fsum(
        m.planned_weight * min(rates[m.model], m.demand.planned_req_per_s or math.inf)
        for m in rated or models
    )


def _smallest_share(
    models: tuple[ModelDemand, ...],
    able: Collection[str],
    rates: Mapping[str, float],
    left: Mapping[str, float],
    objective: Objective,
) -> float:
    """The value of max-min and max-headroom, over the models that fit some device."""
    there = [m for m in models if m.model in able]
    rated = [m for m in there if m.demand.planned_req_per_s is not None]
    shares = []
    for m in rated or there:
        share = rates[m.model] / (m.demand.planned_req_per_s or 1.0)
        if objective is Objective.MAX_MIN:
            share = (min(1.0, share) if rated else share) / m.planned_weight
        elif rated and m.model in left:
            wanted = (m.demand.planned_req_per_s or 1.0) * m.rules.survive_share
            share = min(share, left[m.model] / wanted)
        shares.append(share)
    return min(shares, default=0.0)
