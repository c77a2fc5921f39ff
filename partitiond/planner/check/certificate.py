"""Checks the claims of the certificate."""

import dataclasses
import math
from collections.abc import Iterator, Mapping

from partitiond.core.model.placement_rules import PRIORITY_FACTOR
from partitiond.core.numbers.grouping import by_key
from partitiond.core.performance.interference import Interference
from partitiond.core.plan.costs import idle_watts
from partitiond.core.plan.record import (
    Candidate,
    Certificate,
    ModelDemand,
    Objective,
    Placement,
    Plan,
    Status,
)
from partitiond.planner.check.figures import RELATIVE
from partitiond.planner.check.fits import Fits, fit_together


def check_certificate(
    plan: Plan,
    demands: Mapping[str, ModelDemand],
    rates: Mapping[str, float],
    host_memory: Mapping[str, int],
    interference: Interference,
) -> Iterator[str]:
    """Yield claims that the plan's own figures contradict.

    Args:
        plan: the plan.
        demands: what was asked for, by model.
        rates: requests/s that each model gets.
        host_memory: memory for engines by host name, if that is stated.
        interference: kappa and levels the plan was made with.
    """
    proof = plan.certificate
    if proof.partial != bool(plan.unplaced or plan.held_back):
        yield f"the certificate {'denies' if proof.partial else 'claims'} that all is served"
    value = _value(plan, demands, rates)
    if value is None:
        yield f"the certificate speaks of {proof.objective}, but the power of a device is not known"
        return
    slack = RELATIVE * abs(value)
    smallest = proof.objective.is_cost
    sign = 1 if smallest else -1
    if abs(value - proof.own_value) > slack:
        yield f"the certificate's value is {proof.own_value:.6g}, the plan's is {value:.6g}"
    if sign * (proof.own_bound - value) > slack:
        yield f"the plan's value {value:.6g} is better than its bound {proof.own_bound:.6g}"
    moved = proof.moves * proof.move_price
    own, value = value, value + moved if smallest else value * (1 - moved)
    if abs(value - proof.value) > slack:
        yield f"the certificate's value is {proof.value:.6g}, with its moves it is {value:.6g}"
    if sign * (proof.bound - value) > slack:
        yield f"the plan's value {value:.6g} is better than its bound {proof.bound:.6g}"
    gap = abs(proof.bound - proof.value) / max(abs(proof.value), 1e-9)
    if abs(gap - proof.gap) > 1e-6 * max(1.0, gap):
        yield f"the certificate's gap is {proof.gap:.6g}, its figures give {gap:.6g}"
    if proof.status is Status.OPTIMAL and gap > RELATIVE:
        yield f"the certificate says optimal with a gap of {gap:.2%}"
    if sign * (proof.own_bound - proof.bound) > slack:
        yield "the bound with moves is looser than the one without them"
    yield from _check_best(proof, sign, slack)
    yield from _check_priorities(plan, demands, rates)
    if smallest:
        yield from _check_served(plan, demands, rates)
    if smallest or (proof.objective is Objective.MAX_MIN and own > 0):
        yield from _check_left_out(plan, demands, host_memory, interference)
    if proof.objective is Objective.MAX_GOODPUT:
        yield from _check_idle(plan, demands, rates, host_memory, interference)


def _check_best(proof: Certificate, sign: int, slack: float) -> Iterator[str]:
    """Check that the best known value lies between the plan's value and the bound."""
    if proof.best_value is None:
        return
    if sign * (proof.best_value - proof.own_value) > slack:
        own = proof.own_value
        yield f"the best value known is {proof.best_value:.6g}, the plan's own {own:.6g}"
    if sign * (proof.own_bound - proof.best_value) > slack:
        yield f"the best value known {proof.best_value:.6g} is better than the bound"


def _value(
    plan: Plan, demands: Mapping[str, ModelDemand], rates: Mapping[str, float]
) -> float | None:
    """Return the objective's value of the plan; None if a device's power is not known."""
    used = {p.device_id for p in plan.placements}
    devices = [d for d in plan.devices if d.id in used]
    match plan.certificate.objective:
        case Objective.MIN_DEVICES:
            return float(len(devices))
        case Objective.MIN_PRICE:
            return math.fsum(d.price_per_hour for d in devices)
        case Objective.MIN_ENERGY:
            replicas = [_charge(p.candidate, demands[p.model]) for p in plan.placements]
            return _sum([*(idle_watts(d) for d in devices), *replicas])
        case Objective.MAX_GOODPUT:
            return _goodput(demands, rates)
        case _:
            return _smallest_share(plan, demands, rates)


def _sum(watts: list[float | None]) -> float | None:
    known = [w for w in watts if w is not None]
    return math.fsum(known) if len(known) == len(watts) else None


def _charge(c: Candidate, demand: ModelDemand) -> float | None:
    """Return a replica's watts: busy for its part of the demand, with the fewest of its kind."""
    planned, fewest = demand.demand.planned_req_per_s, max(1, demand.min_replicas)
    if c.watts is None or planned is None:
        return c.watts
    while fewest * c.capacity_req_per_s < planned * (1 - 1e-9):
        fewest = max(fewest + 1, math.floor(planned / c.capacity_req_per_s))
    return c.watts * planned / (fewest * c.capacity_req_per_s)


def _goodput(demands: Mapping[str, ModelDemand], rates: Mapping[str, float]) -> float:
    """Return weighted planned requests/s; a priority counts a hundred times the one below."""
    return math.fsum(d.planned_weight * _planned(d, rates) for d in _counted(demands))


def _counted(demands: Mapping[str, ModelDemand]) -> list[ModelDemand]:
    """Return models that count under max-goodput: those without a rate only if no model has one."""
    rated = [d for d in demands.values() if d.demand.planned_req_per_s is not None]
    return rated or list(demands.values())


def _planned(demand: ModelDemand, rates: Mapping[str, float]) -> float:
    return min(rates.get(demand.model, 0.0), demand.demand.planned_req_per_s or math.inf)


def _check_priorities(
    plan: Plan, demands: Mapping[str, ModelDemand], rates: Mapping[str, float]
) -> Iterator[str]:
    """Check the claims for each priority; optimal requires every priority to be optimal."""
    proof = plan.certificate
    if proof.objective is not Objective.MAX_GOODPUT:
        return
    there = (d for d in _counted(demands) if rates.get(d.model, 0.0) > 0)
    served = by_key((d.rules.priority, d.demand.weight * _planned(d, rates)) for d in there)
    said = [p.priority for p in proof.by_priority]
    if len(served) > 1 and not set(served) <= set(said):
        yield "the certificate does not speak of each priority that is served"
    if said != sorted(set(said), reverse=True):
        yield f"the certificate lists priorities as {said}"
    behind = False  # a higher priority gets less than its bound, so lower ones may get more
    for p in proof.by_priority:
        value = math.fsum(served.get(p.priority, ()))
        slack = RELATIVE * value
        if abs(value - p.value) > slack:
            yield f"priority {p.priority} gets {value:.6g}, the certificate says {p.value:.6g}"
        if value - p.bound > slack and not behind:
            yield f"priority {p.priority} gets {value:.6g}, more than its bound {p.bound:.6g}"
        if proof.status is Status.OPTIMAL and p.bound - value > slack:
            yield f"the certificate says optimal, priority {p.priority} may get {p.bound:.6g}"
        behind = behind or p.bound - value > slack
    if proof.by_priority:
        most = math.fsum(PRIORITY_FACTOR**p.priority * p.bound for p in proof.by_priority)
        if abs(most - proof.own_bound) > RELATIVE * most:
            yield f"the bound is {proof.own_bound:.6g}, those of priorities make {most:.6g}"


def _smallest_share(
    plan: Plan, demands: Mapping[str, ModelDemand], rates: Mapping[str, float]
) -> float:
    """Return the value of max-min, over the models that hold a replica.

    The value 0 is also valid if some model holds no replica.
    """
    placed = {p.model for p in plan.placements}
    if plan.certificate.own_value == 0 and not placed.issuperset(demands):
        return 0.0
    there = [d for d in demands.values() if d.model in placed]
    rated = [d for d in there if d.demand.planned_req_per_s is not None]
    shares = []
    for d in rated or there:
        share = rates[d.model] / (d.demand.planned_req_per_s or 1.0)
        shares.append((min(1.0, share) if rated else share) / d.planned_weight)
    return min(shares, default=0.0)


def _check_served(
    plan: Plan, demands: Mapping[str, ModelDemand], rates: Mapping[str, float]
) -> Iterator[str]:
    """Check that a cost is the cost of serving every model that fits some device."""
    for u in plan.unplaced:
        demand = demands[u.model]
        wanted = demand.demand.planned_req_per_s or 0.0
        if rates.get(u.model, 0.0) > 0 and (u.missing_req_per_s or 0.0) > RELATIVE * wanted:
            yield (
                f"the certificate speaks of {plan.certificate.objective}, but "
                f"{demand.model} is served in part only"
            )


def _check_left_out(
    plan: Plan,
    demands: Mapping[str, ModelDemand],
    host_memory: Mapping[str, int],
    interference: Interference,
) -> Iterator[str]:
    """Check that a model left out of a cost, or of a share, fits no device, or no host together
    with the models that have to be near.

    For shares, a model without a rate beside models with rates does not count.
    """
    placed = {p.model for p in plan.placements}
    rated = any(demands[name].demand.planned_req_per_s is not None for name in placed)
    rated = rated and not plan.certificate.objective.is_cost
    for d in demands.values():
        if d.model in placed or (rated and d.demand.planned_req_per_s is None):
            continue
        company = [d.model]
        for name in company:
            near = demands[name].rules.near if name in demands else ()
            company += [other for other in near if other not in company]
        able = [demands[name] for name in company if name in demands]
        if plan.certificate.objective is Objective.MIN_ENERGY:  # else it has no charge
            able = [
                dataclasses.replace(
                    m, candidates=tuple(c for c in m.candidates if c.watts is not None)
                )
                for m in able
            ]
        named = {m.model: m for m in able}
        alone = Fits(plan.devices, named, interference, host_memory, near=False)
        if len(able) < len(company) or any(alone.closest(alone.unlike(m), m) for m in able):
            continue
        if len(able) == 1 or any(
            fit_together(there, able, interference, host_memory)
            for there in by_key((device.host, device) for device in plan.devices).values()
        ):
            yield f"{d.model} is left out of {plan.certificate.objective} and would fit a device"


def _check_idle(
    plan: Plan,
    demands: Mapping[str, ModelDemand],
    rates: Mapping[str, float],
    host_memory: Mapping[str, int],
    interference: Interference,
) -> Iterator[str]:
    """Check that the bound of the most goodput covers the plan with one replica more, of a model
    that has none, on a device that holds none."""
    proof, held = plan.certificate, {p.device_id for p in plan.placements}
    there, idle = {p.model for p in plan.placements}, [d for d in plan.devices if d.id not in held]
    fits = Fits(
        plan.devices, demands, interference, host_memory, placements=plan.placements, rates=rates
    )
    for d in _counted(demands):
        planned, least = d.demand.planned_req_per_s, d.min_replicas
        if d.model in there or planned is None or least or d.max_replicas == 0:
            continue  # a replica of the least numbers would be in other plans than the bound's
        more = [(d.planned_weight * min(planned, c.capacity_req_per_s), c) for c in d.candidates]
        served = [((proof.own_value + one) * (1 - RELATIVE), c) for one, c in more]
        better = [(best, c) for best, c in served if best > proof.own_bound]
        for device, (best, c) in ((device, pair) for device in idle for pair in better):
            if isinstance(fits.place(c, device), Placement):
                yield f"{d.model} is left out, with it on {device.id} {best:.6g} would be served"
                break
