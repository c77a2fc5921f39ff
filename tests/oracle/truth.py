"""Enumerates every plan of a tiny question, and finds the best value, in rational numbers.

Limits on sums of floats may be relaxed by a part (`slack`): the plan of a question may use that
much (docs/planning.md), while a bound has to hold for slack 0.
"""

import collections
import dataclasses
import functools
import itertools
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Final

from partitiond.core.hardware.gpus import HARDWARE
from partitiond.core.hardware.kinds import Device, DeviceKind, MigProfile, SharingMode
from partitiond.core.hardware.partition import CpuCores, MigSlice, MpsShare
from partitiond.core.model.spec import FaultDomain, Isolation
from partitiond.core.performance.interference import Interference
from partitiond.core.plan.record import Candidate, ModelDemand, Objective, Placement

MIB: Final = 1 << 20
MPS_OVERHEAD_BYTES: Final = 256 * MIB
HEADROOM_BYTES: Final = 512 * MIB
MIG_STARTS: Final = {(1, 1): range(7), (1, 2): (0, 2, 4, 6), (2, 2): (0, 2, 4), (3, 4): (0, 4),
                     (4, 4): (0,), (7, 8): (0,)}  # fmt: skip
"""First memory slices of an instance of so many compute and memory slices."""
MOST_LOADS: Final = 3_000
"""Ways to load all devices; questions with more are not asked."""

Chosen = tuple[tuple[ModelDemand, Candidate], ...]
Kept = tuple[tuple[str, int], ...]
"""Number of running replicas that stay, by model."""
Value = tuple[Fraction, ...]
"""What a plan is worth: under max-goodput by priority, the first difference deciding, else one."""


@dataclasses.dataclass(frozen=True)
class Load:
    """What one device holds: replicas and requests/s by model, and what that takes.

    Attributes:
        kept: how many of the running replicas of each model are among them.
    """

    held: tuple[tuple[str, int, Fraction], ...] = ()
    watts: Fraction = Fraction(0)
    cores: int = 0
    host_bytes: int = 0
    kept: Kept = ()

    @functools.cached_property
    def of(self) -> dict[str, tuple[int, Fraction]]:
        """Replicas and rate by model."""
        return {name: (count, rate) for name, count, rate in self.held}


@dataclasses.dataclass(frozen=True)
class Question:
    """What is asked.

    Attributes:
        slack: the part by which limits on sums of floats are relaxed.
        short: replicas of the least numbers, of all models together, that a plan for the most
            goodput may lack.
        running: what runs when the plan is asked for.
        move_price: in devices.
        allow_outage: every model may have no replica for a while.
    """

    devices: tuple[Device, ...]
    models: tuple[ModelDemand, ...]
    objective: Objective
    interference: Interference
    host_memory_bytes: tuple[tuple[str, int], ...] = ()
    slack: Fraction = Fraction(0)
    short: int = 0
    running: tuple[Placement, ...] = ()
    move_price: float = 0.0
    allow_outage: bool = True

    def runs_on(self, device: Device) -> tuple[Placement, ...]:
        """What runs on a device."""
        return tuple(p for p in self.running if p.device_id == device.id)


def headroom(total_bytes: int) -> int:
    """Memory that is left free: 3 %, and 512 MiB at least."""
    return max(HEADROOM_BYTES, -(-total_bytes * 3 // 100))


def usable(device: Device) -> int:
    """Bytes for footprints."""
    free = min(device.memory_bytes - device.reserved_bytes, device.free_bytes)
    return free - headroom(device.memory_bytes)


def load_of(question: Question, device: Device, chosen: Chosen) -> Load | None:
    """What the device then holds; None where that breaks a rule of one device."""
    if not chosen:
        return Load()
    modes = {c.size.mode for _, c in chosen}
    mode = next(iter(modes))
    if device.cordoned or len(modes) > 1 or mode not in device.modes:
        return None
    if not (_company(device, mode, chosen) and _room(device, mode, chosen)):
        return None
    level = _level(question, mode, [c for _, c in chosen])
    if level is None:
        return None
    more = 1 + question.slack
    held: dict[str, tuple[int, Fraction]] = {}
    for demand, c in chosen:
        slo = demand.slo
        if slo is not None and (
            Fraction(c.ttft_p95_seconds) * level > Fraction(slo.ttft_seconds) * more
            or Fraction(c.tpot_p95_seconds) * level > Fraction(slo.tpot_seconds) * more
        ):
            return None
        count, rate = held.get(demand.model, (0, Fraction(0)))
        held[demand.model] = count + 1, rate + Fraction(c.capacity_req_per_s) / level
    on_cpu = device.kind is DeviceKind.CPU
    return Load(
        held=tuple(sorted((name, n, rate) for name, (n, rate) in held.items())),
        watts=sum((_charge(demand, c) for demand, c in chosen), Fraction(0)),
        cores=sum(c.size.cores for _, c in chosen) if device.cores else 0,
        host_bytes=sum(c.memory_bytes if on_cpu else c.host_memory_bytes for _, c in chosen),
    )


def _company(device: Device, mode: SharingMode, chosen: Chosen) -> bool:
    """Who may share the device with whom, and whether each may be there at all."""
    names = {demand.model for demand, _ in chosen}
    place = {device.id, device.host, device.rack, device.hardware}
    if (device.occupied_slices and mode is not SharingMode.MIG) or (
        device.occupied_sm_percent and mode is not SharingMode.MPS
    ):
        return False
    alone = len(chosen) == 1 and not (device.occupied_slices or device.occupied_sm_percent)
    groups = {demand.isolation_group for demand, _ in chosen}
    if device.mps_group is not None:
        groups.add(device.mps_group)
    if mode is SharingMode.MPS and len(groups) > 1:
        return False
    for demand, c in chosen:
        rules = demand.rules
        if c.hardware != device.hardware or (rules.only_on and not place & set(rules.only_on)):
            return False
        if names & set(rules.avoid):
            return False
        walled = demand.isolation is Isolation.HARDWARE and mode is SharingMode.MIG
        if demand.isolation is not Isolation.SHARED and not (walled or alone):
            return False
    limits = {SharingMode.WHOLE: 1, SharingMode.MEMORY: 32, SharingMode.MPS: 48}
    most = limits.get(mode, 256)
    return len(chosen) <= min(most, most if device.max_replicas is None else device.max_replicas)


def _room(device: Device, mode: SharingMode, chosen: Chosen) -> bool:
    """Memory or instances, SMs and cores."""
    if device.cores and sum(c.size.cores for _, c in chosen) > len(device.cores):
        return False
    if mode is SharingMode.MIG:
        return _instances_fit(device, [c for _, c in chosen])
    percent = sum(c.size.sm_percent for _, c in chosen)
    if mode is SharingMode.MPS and percent + device.occupied_sm_percent > 100:
        return False
    taken = MPS_OVERHEAD_BYTES if mode is SharingMode.MPS else 0
    return taken + sum(c.memory_bytes for _, c in chosen) <= usable(device)


def _instances_fit(device: Device, chosen: list[Candidate]) -> bool:
    offered = {p.name: p for p in HARDWARE[device.hardware].mig_profiles}
    for c in chosen:
        profile = offered.get(c.size.mig_profile)
        if profile is None:
            return False
        if c.memory_bytes > profile.memory_bytes - headroom(profile.memory_bytes):
            return False
    return starts_of(device, [c.size.mig_profile for c in chosen]) is not None


def starts_of(
    device: Device, names: Sequence[str], there: Collection[tuple[str, int]] = ()
) -> list[tuple[str, int]] | None:
    """Profiles with first slices for instances beside those that are there; None for no room.

    Args:
        device: the GPU.
        names: of the profiles of all instances.
        there: profile and first slice of those that stay where they are.
    """
    offered = {p.name: p for p in HARDWARE[device.hardware].mig_profiles}
    numbers = collections.Counter(names)
    left = list((numbers - collections.Counter(name for name, _ in there)).elements())
    if any(count > offered[name].max_instances for name, count in numbers.items()):
        return None
    if sum(offered[name].compute_slices for name in names) > 7:
        return None

    def cover(name: str, start: int) -> frozenset[int]:
        return frozenset(range(start, start + offered[name].memory_slices))

    def place(left: list[str], taken: frozenset[int]) -> list[tuple[str, int]] | None:
        if not left:
            return []
        name = left[0]
        for start in first_slices(device, offered[name]):
            if not cover(name, start) & taken:
                rest = place(left[1:], taken | cover(name, start))
                if rest is not None:
                    return [(name, start), *rest]
        return None

    taken = frozenset(device.occupied_slices)
    for name, start in there:
        if cover(name, start) & taken or start not in first_slices(device, offered[name]):
            return None
        taken |= cover(name, start)
    found = place(sorted(left, key=lambda name: -offered[name].memory_slices), taken)
    return None if found is None else [*there, *found]


def first_slices(device: Device, profile: MigProfile) -> Sequence[int]:
    """Where an instance may begin: where the driver allows it, or where one is that may be used."""
    if device.mig_fixed:
        return [
            i.slice_start
            for i in device.mig_instances
            if i.mig_profile == profile.name and i.uuid and not i.busy
        ]
    return MIG_STARTS[profile.compute_slices, profile.memory_slices]


def _level(question: Question, mode: SharingMode, chosen: list[Candidate]) -> Fraction | None:
    """The smallest level that the mix does not exceed."""
    known = question.interference
    levels, usual = {
        SharingMode.MEMORY: (known.levels, known.kappa_memory),
        SharingMode.MPS: (known.levels_mps, known.kappa_mps),
        SharingMode.CORES: (known.levels_cores, known.kappa_cores),
    }.get(mode, ((1.0,), 0.0))
    if mode is SharingMode.MIG:
        return Fraction(1)
    kappa = max(Fraction(usual if c.kappa is None else c.kappa) for c in chosen)
    busy = sum((Fraction(c.busy) for c in chosen), Fraction(0))
    sigma = max(Fraction(1), busy) * (1 + kappa * (len(chosen) - 1))
    fitting = (Fraction(x) for x in levels if sigma <= Fraction(x) * (1 + question.slack))
    return next(fitting, None)


def _charge(demand: ModelDemand, c: Candidate) -> Fraction:
    """Watts of a replica: for its part of the rate, served by the fewest of its kind."""
    planned = demand.demand.planned_req_per_s
    if c.watts is None or planned is None:
        return Fraction(c.watts or 0)
    rate, each = Fraction(planned), Fraction(c.capacity_req_per_s)
    fewest = max(1, demand.min_replicas, -(-rate * (1 - Fraction(1, 10**9)) // each))
    return Fraction(c.watts) * rate / (each * fewest)


def loads_of(question: Question, device: Device) -> list[Load]:
    """Everything that one device can hold."""
    found: dict[Load, None] = {Load(): None}
    for mode in device.modes:
        mine = [
            (demand, c)
            for demand in question.models
            for c in demand.candidates
            if c.size.mode is mode
        ]
        stack: list[tuple[int, Chosen]] = [(0, ())]
        while stack:
            first, chosen = stack.pop()
            for k in range(first, len(mine)):
                grown = (*chosen, mine[k])
                # Whatever fits into the device's room fits with one replica fewer, too.
                if not (
                    mine[k][1].hardware == device.hardware
                    and len(grown) <= 48
                    and _room(device, mode, grown)
                ):
                    continue
                load = load_of(question, device, grown)
                if load is not None:
                    for kept in keepings(question, device, grown):
                        found[dataclasses.replace(load, kept=kept)] = None
                stack.append((k, grown))
    return list(found)


def same(old: Placement, device: Device, demand: ModelDemand, c: Candidate) -> bool:
    """Whether an engine that runs on the device is the one that a candidate asks for."""
    was, part = old.candidate, old.partition
    if isinstance(part, MpsShare) and part.isolation_group != demand.isolation_group:
        return False
    if isinstance(part, CpuCores) and not set(part.cores) <= set(device.cores):
        return False
    return (
        (old.model, was.variant, was.hardware, was.size) == (c.model, c.variant, c.hardware, c.size)
        and (was.batch, was.kv_cache_bytes) == (c.batch, c.kv_cache_bytes)
        and part.memory_bytes == c.memory_bytes
        and not (was.release and c.release and was.release != c.release)
    )


def keepings(question: Question, device: Device, chosen: Chosen) -> set[Kept]:
    """The largest sets of running replicas that may be among the chosen ones."""
    here, found = question.runs_on(device), set[Kept]()
    names = [c.size.mig_profile for _, c in chosen]
    for size in range(len(here), -1, -1):
        for some in itertools.combinations(here, size):
            there = [
                (p.partition.mig_profile, p.partition.slice_start)
                for p in some
                if isinstance(p.partition, MigSlice)
            ]
            if _among(device, some, chosen) and (
                not there or starts_of(device, names, there) is not None
            ):
                found.add(tuple(sorted(collections.Counter(p.model for p in some).items())))
        if found:
            return found
    return {()}


def _among(device: Device, some: tuple[Placement, ...], chosen: Chosen) -> bool:
    left = [*chosen]
    for old in some:
        match = next((pair for pair in left if same(old, device, *pair)), None)
        if match is None:
            return False
        left.remove(match)
    return True


def all_loads(question: Question, most: int = MOST_LOADS) -> list[list[Load]] | None:
    """What each device can hold; None where there are more than so many ways to load all."""
    kinds: dict[object, list[Load]] = {}
    found, number = [], 1
    for device in question.devices:
        key = dataclasses.replace(device, id="", host="", rack="")
        named = any(m.rules.only_on for m in question.models) or question.runs_on(device)
        kind = (key, device.id if named else "")
        if kind not in kinds:
            kinds[kind] = loads_of(question, device)
        found.append(kinds[kind])
        number *= len(kinds[kind])
        if number > most:
            return None
    return found


def able(question: Question, loads: list[list[Load]]) -> frozenset[str]:
    """Models that fit some device with what its host has, without those whose company fits none."""
    there = {
        name
        for device, mine in zip(question.devices, loads, strict=True)
        for load in mine
        if device.kind is DeviceKind.CPU or load.host_bytes <= _host_budget(question, device.host)
        for name, _, _ in load.held
    }
    while stranded := {
        m.model for m in question.models if m.model in there and set(m.rules.near) - there
    }:
        there -= stranded
    return frozenset(there)


def best(question: Question, loads: list[list[Load]]) -> Value | None:
    """The best value of any plan; None where no plan does what the objective asks for."""
    there = able(question, loads)
    values = (
        value
        for chosen in plans(question, loads)
        if (value := value_of(question, chosen, there)) is not None
    )
    pick = min if question.objective.is_cost else max
    return pick(values, default=None)


def plans(question: Question, loads: list[list[Load]]) -> Iterator[tuple[Load, ...]]:
    """All ways to load the devices; of those that only swap equal devices one."""
    pairs = [
        (a, b)
        for a, b in itertools.pairwise(range(len(loads)))
        if loads[a] is loads[b]
        and dataclasses.replace(question.devices[a], id="", cores=())
        == dataclasses.replace(question.devices[b], id="", cores=())
        and not question.devices[a].cores
    ]
    for order in itertools.product(*(range(len(mine)) for mine in loads)):
        if all(order[a] <= order[b] for a, b in pairs):
            yield tuple(mine[k] for mine, k in zip(loads, order, strict=True))


def value_of(question: Question, chosen: tuple[Load, ...], there: Collection[str]) -> Value | None:
    """What a way to load all devices is worth; None where it is not allowed."""
    models = [m for m in question.models if m.model in there]
    if any(name not in there for load in chosen for name, _, _ in load.held):
        return None
    if not (_numbers_hold(question, models, chosen) and hosts_hold(question, models, chosen)):
        return None
    rates = {m.model: _rate(m, chosen) for m in models}
    if question.objective.is_cost:
        if not all(_served(question, m, rates[m.model], chosen) for m in models):
            return None
        return (cost(question, chosen),)
    if question.objective is Objective.MAX_GOODPUT:
        return goodput(question.models, rates)
    return (_smallest_share(question, models, rates, chosen),)


def _numbers_hold(question: Question, models: list[ModelDemand], chosen: tuple[Load, ...]) -> bool:
    if any(m.max_replicas is not None and _count(m, chosen) > m.max_replicas for m in models):
        return False
    return lacking(question, models, chosen) <= question.short


def lacking(question: Question, models: Collection[ModelDemand], chosen: tuple[Load, ...]) -> int:
    """Replicas of the least numbers that models lack together."""
    short = 0
    for m in models:
        least = max(1 if m.demand.planned_req_per_s is None else 0, m.min_replicas)
        short += max(0, least - _count(m, chosen))
    return short


def _count(m: ModelDemand, chosen: tuple[Load, ...]) -> int:
    return sum(load.of[m.model][0] for load in chosen if m.model in load.of)


def _host_budget(question: Question, host: str) -> float:
    """Memory for engines on a host."""
    budgets = [usable(d) for d in question.devices if d.host == host and d.kind is DeviceKind.CPU]
    return min([*budgets, dict(question.host_memory_bytes).get(host, math.inf)])


def hosts_hold(question: Question, models: list[ModelDemand], chosen: tuple[Load, ...]) -> bool:
    """Company on each host, and what its devices share: cores and memory."""
    for host in {d.host for d in question.devices}:
        here = [(d, x) for d, x in zip(question.devices, chosen, strict=True) if d.host == host]
        held = {name for _, load in here for name, _, _ in load.held}
        if any(m.model in held and set(m.rules.near) - held for m in models):
            return False
        if sum(load.host_bytes for _, load in here) > _host_budget(question, host):
            return False
        # Hall: engines whose cores lie within a set need no more than the set holds.
        drawing = [(set(d.cores), load.cores) for d, load in here if d.cores and load.cores]
        for size in range(2, len(drawing) + 1):
            for some in itertools.combinations(drawing, size):
                if sum(need for _, need in some) > len(set().union(*(cores for cores, _ in some))):
                    return False
    return True


def _rate(m: ModelDemand, chosen: Collection[Load]) -> Fraction:
    return sum((load.of[m.model][1] for load in chosen if m.model in load.of), Fraction(0))


def _served(question: Question, m: ModelDemand, rate: Fraction, chosen: tuple[Load, ...]) -> bool:
    """The whole rate, and what has to be left without any one fault domain."""
    planned, less = m.demand.planned_req_per_s, 1 - question.slack
    if planned is not None and rate < Fraction(planned) * less:
        return False
    if m.rules.survive is None:
        return True
    rest = _without_each(question, m, m.rules.survive, chosen)
    if planned is None:
        return all(count for count, _ in rest)
    wanted = Fraction(planned) * Fraction(m.rules.survive_share)
    return all(rate >= wanted * less for _, rate in rest)


def _without_each(
    question: Question, m: ModelDemand, kind: FaultDomain, chosen: tuple[Load, ...]
) -> list[tuple[int, Fraction]]:
    """Replicas and rate that are left without each fault domain."""
    names = [_domain(d, kind) for d in question.devices]
    found = []
    for lost in set(names):
        left = [load for name, load in zip(names, chosen, strict=True) if name != lost]
        counts = sum(load.of[m.model][0] for load in left if m.model in load.of)
        found.append((counts, _rate(m, left)))
    return found


def _domain(device: Device, kind: FaultDomain) -> str:
    if kind is FaultDomain.DEVICE:
        return device.id
    return (device.rack or device.host) if kind is FaultDomain.RACK else device.host


def cost(question: Question, chosen: tuple[Load, ...]) -> Fraction:
    used = [(d, load) for d, load in zip(question.devices, chosen, strict=True) if load.held]
    match question.objective:
        case Objective.MIN_DEVICES:
            return Fraction(len(used))
        case Objective.MIN_PRICE:
            return sum((Fraction(d.price_per_hour) for d, _ in used), Fraction(0))
        case _:
            return sum((Fraction(d.idle_watts or 0) + x.watts for d, x in used), Fraction(0))


def weight(m: ModelDemand) -> Fraction:
    """Under max-min a priority's share counts as a hundred of the one below."""
    return Fraction(m.demand.weight) * Fraction(100) ** m.rules.priority


def counted(models: Collection[ModelDemand]) -> list[ModelDemand]:
    """Models that count under max-goodput: those without a rate only where none has one."""
    return [m for m in models if m.demand.planned_req_per_s is not None] or [*models]


def priorities(models: Collection[ModelDemand]) -> list[int]:
    """Of the models that count, the highest first."""
    return sorted({m.rules.priority for m in counted(models)}, reverse=True)


def goodput(models: Collection[ModelDemand], rates: Mapping[str, Fraction]) -> Value:
    """Weighted planned requests/s of each priority, up to the demand: the highest decides first."""
    total = dict.fromkeys(priorities(models), Fraction(0))
    for m in counted(models):
        planned, rate = m.demand.planned_req_per_s, rates.get(m.model, Fraction(0))
        given = rate if planned is None else min(rate, Fraction(planned))
        total[m.rules.priority] += Fraction(m.demand.weight) * given
    return tuple(total.values())


def _smallest_share(
    question: Question,
    models: list[ModelDemand],
    rates: Mapping[str, Fraction],
    chosen: tuple[Load, ...],
) -> Fraction:
    rated = [m for m in models if m.demand.planned_req_per_s is not None]
    shares = []
    for m in rated or models:
        planned = Fraction(m.demand.planned_req_per_s or 1)
        share = rates[m.model] / planned
        if question.objective is Objective.MAX_MIN:
            share = (min(Fraction(1), share) if rated else share) / weight(m)
        elif rated and m.rules.survive is not None:
            left = min(r for _, r in _without_each(question, m, m.rules.survive, chosen))
            share = min(share, left / (planned * Fraction(m.rules.survive_share)))
        shares.append(share)
    return min(shares, default=Fraction(0))
