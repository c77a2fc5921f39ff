"""Says what a plan does to what runs: moves and their price, outages, and what starts alone give.

Written from docs/planning.md like `truth`, in the same figures.
"""

import collections
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction

from partitiond.core.hardware.kinds import Device, SharingMode
from partitiond.core.hardware.partition import CpuCores, MigSlice, MpsShare, way_of
from partitiond.core.plan.record import Objective, Placement, Plan
from tests.oracle.truth import (
    MPS_OVERHEAD_BYTES,
    Load,
    Question,
    Value,
    able,
    goodput,
    hosts_hold,
    lacking,
    load_of,
    plans,
    same,
    starts_of,
    usable,
)

Order = tuple[int, Value]
"""What is wanted before the objective: least numbers (less those that are missing), and served
demand by priority."""


def price_of_a_move(question: Question) -> Fraction:
    """In the objective's unit, else as a part of the value."""
    price = Fraction(question.move_price) if question.running else Fraction(0)
    match question.objective:
        case Objective.MIN_DEVICES:
            costs = [Fraction(1) for _ in question.devices]
        case Objective.MIN_PRICE:
            costs = [Fraction(d.price_per_hour) for d in question.devices]
        case Objective.MIN_ENERGY:
            costs = [Fraction(d.idle_watts or 0) for d in question.devices]
        case _:
            return price / 100
    return price * sum(costs, Fraction(0)) / len(costs)


def could_stay(question: Question, old: Placement) -> bool:
    """Whether a running replica may stay where it is, by itself."""
    device = next((d for d in question.devices if d.id == old.device_id), None)
    demand = next((m for m in question.models if m.model == old.model), None)
    if device is None or demand is None:
        return False
    part = old.partition
    if isinstance(part, MigSlice):
        there = (part.mig_profile, part.slice_start)
        if starts_of(device, [part.mig_profile], [there]) is None:
            return False
    return any(
        same(old, device, demand, c) and load_of(question, device, ((demand, c),)) is not None
        for c in demand.candidates
    )


def moves(question: Question, kept: Mapping[str, int], placed: Mapping[str, int]) -> int:
    """Replicas that could stay and are replaced; those that have to move are replaced first."""
    could = collections.Counter(p.model for p in question.running if could_stay(question, p))
    runs = collections.Counter(p.model for p in question.running)
    return sum(
        max(
            0,
            min(
                n - kept.get(model, 0), placed.get(model, 0) - kept.get(model, 0) - runs[model] + n
            ),
        )
        for model, n in could.items()
    )


def moves_of_loads(question: Question, chosen: Sequence[Load]) -> int:
    """The fewest moves after which the devices hold this."""
    kept, placed = collections.Counter[str](), collections.Counter[str]()
    for load in chosen:
        kept.update(dict(load.kept))
        placed.update({name: count for name, count, _ in load.held})
    return moves(question, kept, placed)


def moves_of_plan(question: Question, plan: Plan) -> int:
    """The moves of a plan."""
    kept = collections.Counter(p.model for p in plan.placements if _stays(question, p) is not None)
    return moves(question, kept, collections.Counter(p.model for p in plan.placements))


def _stays(question: Question, new: Placement) -> Placement | None:
    """The running replica that a placement is, if it stays as it is."""
    device = next(d for d in question.devices if d.id == new.device_id)
    demand = next(m for m in question.models if m.model == new.model)
    for old in question.running:
        if old.replica_id == new.replica_id and old.device_id == new.device_id:
            alike = old.partition == new.partition and same(old, device, demand, new.candidate)
            return old if alike else None
    return None


def outages(question: Question, plan: Plan) -> set[str]:
    """Models that have no replica for a while in whatever order the plan is applied.

    Replicas may stop as soon as their models serve from others. A device has to hold what is on it
    at each moment: memory, mode, SMs, slices, the cores of a CPU; all else is not looked at, and
    engines on GPUs share host cores, and SMs with others, meanwhile.
    """
    known = {d.id: d for d in question.devices}
    kept = [old for p in plan.placements if (old := _stays(question, p)) is not None]
    starts = [p for p in plan.placements if _stays(question, p) is None]
    leaves = [p for p in question.running if p.device_id in known and p not in kept]
    placed = {p.model for p in plan.placements}
    careful = ({p.model for p in leaves} & placed) - {p.model for p in kept}
    careful -= {m.model for m in question.models if m.allow_outage}
    careful -= {
        model for d in question.devices if not d.cordoned for model in _must_leave(question, d)
    }
    held = [p for p in leaves if p.model in careful]  # all others may stop at once
    seen, best = set[tuple[frozenset[int], frozenset[int]]](), frozenset[int]()
    stack = [(frozenset[int](), frozenset(range(len(held))))]
    while stack:
        state = stack.pop()
        if state in seen:
            continue
        seen.add(state)
        started, there = state
        best = max(best, started, key=len)
        if len(started) == len(starts):
            return set()
        present = [*kept, *(starts[k] for k in started), *(held[k] for k in there)]
        serving = collections.Counter(p.model for p in present)
        for k in there:
            if serving[held[k].model] > 1:
                stack.append((started, there - {k}))
        for k in {*range(len(starts))} - started:
            new = starts[k]
            if _fit(
                known[new.device_id], [p for p in present if p.device_id == new.device_id] + [new]
            ):
                stack.append((started | {k}, there))
    return {starts[k].model for k in {*range(len(starts))} - best} & careful or careful


def _must_leave(question: Question, device: Device) -> set[str]:
    """Models with a replica on a device that does not hold what runs there."""
    here = question.runs_on(device)
    demands = {m.model: m for m in question.models}
    here = tuple(p for p in here if p.model in demands)
    if not here:
        return set()
    fits = _fit(device, here) and here[0].partition.mode in device.modes
    load = load_of(question, device, tuple((demands[p.model], p.candidate) for p in here))
    return set() if fits and load is not None else {p.model for p in here}


def _fit(device: Device, here: Sequence[Placement]) -> bool:
    mode = here[0].partition.mode
    if len({way_of(p.partition) for p in here}) > 1 or (
        mode is SharingMode.WHOLE and len(here) > 1
    ):
        return False
    if sum(len(p.partition.cores) for p in here if isinstance(p.partition, CpuCores)) > len(
        device.cores
    ):
        return False
    if mode is SharingMode.MIG:
        there = [(p.partition.mig_profile, p.partition.slice_start) for p in here
                 if isinstance(p.partition, MigSlice)]  # fmt: skip
        return starts_of(device, [name for name, _ in there], there) is not None
    percent = sum(p.partition.sm_percent for p in here if isinstance(p.partition, MpsShare))
    if percent > 100:
        return False
    taken = MPS_OVERHEAD_BYTES if mode is SharingMode.MPS else 0
    return taken + sum(p.partition.memory_bytes for p in here) <= usable(device)


def order_of(question: Question, loads: list[list[Load]], chosen: Sequence[Load]) -> Order:
    """What a way to load the devices is worth before the objective, of models that fit there."""
    there = able(question, loads)
    models = [m for m in question.models if m.model in there]
    rates = collections.defaultdict[str, Fraction](Fraction)
    for load in chosen:
        for name, _, rate in load.held:
            rates[name] += rate
    rated = [m for m in models if m.demand.planned_req_per_s is not None]
    return -lacking(question, models, tuple(chosen)), goodput(rated, rates) if rated else ()


def with_starts_alone(question: Question, loads: list[list[Load]]) -> Iterator[tuple[Load, ...]]:
    """Ways to load the devices in which all that runs stays; none where that is not allowed."""
    devices = {d.id for d in question.devices}
    if not all(could_stay(question, p) for p in question.running if p.device_id in devices):
        return
    runs = [
        tuple(sorted(collections.Counter(p.model for p in question.runs_on(d)).items()))
        for d in question.devices
    ]
    staying = [
        [load for load in mine if load.kept == kept] for mine, kept in zip(loads, runs, strict=True)
    ]
    there = [m for m in question.models if m.model in able(question, loads)]
    for chosen in plans(question, staying):
        counts = collections.Counter[str]()
        for load in chosen:
            counts.update({name: count for name, count, _ in load.held})
        if not counts.keys() <= {m.model for m in there}:
            continue
        few = all(m.max_replicas is None or counts[m.model] <= m.max_replicas for m in there)
        if few and hosts_hold(question, there, chosen):
            yield chosen
