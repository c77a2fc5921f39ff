"""Checks what a plan does to running replicas: moves counted by its certificate, and outages."""

import collections
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence

from partitiond.core.hardware.kinds import Device, SharingMode
from partitiond.core.hardware.partition import MpsShare, way_of
from partitiond.core.model.placement_rules import Isolation, PlacementRules
from partitiond.core.numbers.grouping import by_key
from partitiond.core.performance.interference import Interference
from partitiond.core.plan.costs import device_cost
from partitiond.core.plan.diff import diff_cost
from partitiond.core.plan.record import (
    ModelDemand,
    Objective,
    Placement,
    Plan,
    diff_plans,
    other_release,
    same_engine,
)
from partitiond.core.plan.start_order import StartGains
from partitiond.core.replica.free_cores import beside_what_runs
from partitiond.planner.check.devices import check_device, check_host
from partitiond.planner.check.figures import levels_of


@dataclasses.dataclass(frozen=True, slots=True)
class Before:
    """The replicas that ran when a plan was asked for, and what may be done to them.

    Attributes:
        running: placements that run.
        move_price: the move price of the planner's request.
        allow_outage: every model may have no replica for a while.
        start_seconds: observed start time of engines, by model.
    """

    running: tuple[Placement, ...] = ()
    move_price: float = 0.0
    allow_outage: bool = True
    start_seconds: tuple[tuple[str, float], ...] = ()


NOTHING = Before()


def as_held_back(
    plan: Plan, demands: Mapping[str, ModelDemand], before: Before
) -> tuple[dict[str, ModelDemand], frozenset[str]]:
    """Return the demands, and the ids of the replicas that need not keep their models' rules.

    These are replicas of models that are held back and stay as they run. Such a model may also run
    at points that are none of its candidates, and as many replicas as ran.
    """
    found, stay = dict(demands), set[str]()
    new = {p.replica_id: p for p in plan.placements}
    names = {held.model for held in plan.held_back} & set(demands)
    old = by_key((p.model, p) for p in before.running if p.model in names)
    for name in names:
        here = [p for p in old[name] if p.replica_id in new and same_engine(p, new[p.replica_id])]
        stay |= {p.replica_id for p in here}
        found[name] = held_demand(demands[name], [new[p.replica_id] for p in here])
    return found, frozenset(stay)


def held_demand(demand: ModelDemand, old: Sequence[Placement]) -> ModelDemand:
    """Return the demand for a model of which running replicas stay, whatever its rules say."""
    most, groups = demand.max_replicas, {way_of(p.partition)[1] for p in old}
    return dataclasses.replace(
        demand,
        candidates=tuple(dict.fromkeys((*demand.candidates, *(p.candidate for p in old)))),
        max_replicas=None if most is None else max(most, len(old)),
        rules=PlacementRules(priority=demand.rules.priority),
        slo=None,
        isolation_group=max(groups - {""}, default=demand.isolation_group),
    )


def to_leave(
    running: Sequence[Placement],
    devices: Sequence[Device],
    demands: Mapping[str, ModelDemand],
    interference: Interference,
    host_memory: Mapping[str, int],
) -> set[str]:
    """Return the models with a replica on a device, or a host, that does not hold what runs there.

    Reasons are memory that others took, or a mode that was forbidden. Every plan stops such
    replicas, so an outage of their models is nobody's choice.
    """
    here = tuple(p for p in running if p.model in demands)
    on = by_key((p.device_id, p) for p in here)
    groups = by_key((p.model, way_of(p.partition)[1]) for p in here if way_of(p.partition)[1])
    as_they_run = {
        name: dataclasses.replace(
            demand, isolation_group=max(groups[name], default=demand.isolation_group)
        )
        for name, demand in demands.items()
    }
    found, levels = set[str](), levels_of(here, interference)
    for device in (d for d in devices if not d.cordoned):
        mine = tuple(on[device.id])
        if any(check_device(device, mine, as_they_run, levels.get(device.id, 1.0))):
            found |= {p.model for p in mine}
    for host, there in by_key((d.host, d) for d in devices if not d.cordoned).items():
        mine = tuple(p for d in there for p in on[d.id])
        if any(check_host(host, there, mine, host_memory.get(host))):
            found |= {p.model for p in mine}
    return found


def check_changes(
    plan: Plan,
    demands: Mapping[str, ModelDemand],
    before: Before,
    stay: frozenset[str],
    *,
    interference: Interference,
    host_memory: Mapping[str, int],
) -> Iterator[str]:
    """Yield miscounted moves, models that should stay and do not, and outages not allowed.

    Args:
        plan: the plan.
        demands: what was asked for, as `as_held_back` returns it.
        before: what ran.
        stay: replicas of models that are held back, as `as_held_back` returns them.
        interference: kappa and levels the plan was made with.
        host_memory: memory for engines by host name, if that is stated.
    """
    yield from _check_moves(plan, demands, before)
    staying = {p.model for p in plan.placements if p.replica_id in stay}
    for held in plan.held_back:
        if held.model not in staying:
            yield f"{held.model} is said to stay as it runs, and none of its replicas does"
    if before.allow_outage or not before.running:
        return
    allowed = {demand.model for demand in demands.values() if demand.allow_outage}
    placements = beside_what_runs(plan.placements, before.running, plan.devices)
    planned = {name: d.demand.planned_req_per_s for name, d in demands.items()}
    gains = StartGains(
        demands={name: rate for name, rate in planned.items() if rate is not None},
        weights={name: d.planned_weight for name, d in demands.items()},
    )
    diff = diff_plans(before.running, placements)
    takes = diff_cost(diff, plan.devices, dict(before.start_seconds), gains)
    found = [outage for outage in takes.outages if outage.model not in allowed]
    gone = set[str]()
    if found:
        gone = to_leave(before.running, plan.devices, demands, interference, host_memory)
    for outage in found:
        if outage.model not in gone:
            yield (
                f"{outage.model} would have no replica for about {outage.seconds:.0f} s, and "
                "an outage is not allowed"
            )


def _check_moves(plan: Plan, demands: Mapping[str, ModelDemand], before: Before) -> Iterator[str]:
    proof = plan.certificate
    price = _price(plan.devices, proof.objective, before)
    if not math.isclose(proof.move_price, price, rel_tol=1e-9, abs_tol=1e-12):
        yield f"the certificate prices a move at {proof.move_price:.6g}, it costs {price:.6g}"
    low, high = 0, 0
    if price:
        low = _moves(
            plan, before, lambda p: _could_stay(p, plan, demands) and _simple(p, plan, demands)
        )
        high = _moves(plan, before, lambda p: _could_stay(p, plan, demands))
    if not low <= proof.moves <= high:
        yield f"the certificate counts {proof.moves} moves, the plan makes {low} to {high}"


def _price(devices: Sequence[Device], objective: Objective, before: Before) -> float:
    if not before.running or before.move_price <= 0:
        return 0.0
    if not objective.is_cost:
        return before.move_price / 100
    mean = math.fsum(device_cost(d, objective) or 0.0 for d in devices) / max(1, len(devices))
    return before.move_price * mean


def _moves(plan: Plan, before: Before, could_stay: Callable[[Placement], bool]) -> int:
    """Count replaced replicas that could stay: the fewer of those that left and those that came."""
    new = {p.replica_id: p for p in plan.placements}
    left: collections.Counter[str] = collections.Counter()
    came = collections.Counter(p.model for p in plan.placements)
    for old in before.running:
        now = new.get(old.replica_id)
        if now is not None and same_engine(old, now):
            came[old.model] -= 1
        elif could_stay(old):
            left[old.model] += 1
        else:
            came[old.model] -= 1
    return sum(max(0, min(number, came[model])) for model, number in left.items())


def _simple(old: Placement, plan: Plan, demands: Mapping[str, ModelDemand]) -> bool:
    """Return whether no rule or bound can prevent the replica from staying where it runs.

    The solver decides whether other replicas could stay: counting more of them only costs it more.
    """
    demand = demands[old.model]
    device = next(d for d in plan.devices if d.id == old.device_id)
    free = device.free_bytes >= device.memory_bytes - device.reserved_bytes
    modes = (SharingMode.MEMORY, SharingMode.MPS, SharingMode.CORES)
    return (
        old.partition.mode in modes
        and free
        and not (device.occupied_slices or device.occupied_sm_percent)
        and demand.slo is None
        and not demand.rules.only_on
        and demand.isolation is Isolation.SHARED
    )


def _could_stay(old: Placement, plan: Plan, demands: Mapping[str, ModelDemand]) -> bool:
    device = next((d for d in plan.devices if d.id == old.device_id), None)
    demand = demands.get(old.model)
    if device is None or device.cordoned or device.max_replicas == 0 or demand is None:
        return False
    share = old.partition
    same = not isinstance(share, MpsShare) or share.isolation_group == demand.isolation_group
    if not same or share.mode not in device.modes:
        return False
    return any(
        c.size == old.candidate.size
        and c.hardware == device.hardware
        and (c.variant, c.batch) == (old.candidate.variant, old.candidate.batch)
        and c.kv_cache_bytes == old.candidate.kv_cache_bytes
        and c.memory_bytes == old.partition.memory_bytes
        and not other_release(old, dataclasses.replace(old, candidate=c))
        for c in demand.candidates
    )
