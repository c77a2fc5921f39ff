"""Reports what is wrong with a plan. Written before the solver and independent of it.

It uses only core types: bytes and floats as they stand in the plan, never the solver's integers. It
serves as the planner's property test, as the guard before a plan is shown or applied, and as the
answer to why a plan written by hand is refused.
"""

import collections
from collections.abc import Iterable, Iterator, Mapping

from partitiond.core.numbers.grouping import by_key
from partitiond.core.performance.interference import DEFAULT, Interference
from partitiond.core.plan.record import ModelDemand, ModelForecast, Plan, Unplaced
from partitiond.planner.check.certificate import check_certificate
from partitiond.planner.check.changes import NOTHING, Before, as_held_back, check_changes
from partitiond.planner.check.devices import check_device, check_host
from partitiond.planner.check.figures import RELATIVE, levels_of, rates_of
from partitiond.planner.check.rules import check_rules, check_slo

__all__ = ["Before", "check_plan"]


def check_plan(
    plan: Plan,
    models: Iterable[ModelDemand],
    interference: Interference = DEFAULT,
    host_memory_bytes: Iterable[tuple[str, int]] = (),
    before: Before = NOTHING,
) -> tuple[str, ...]:
    """Return every violation as a sentence; empty if the plan is good.

    Args:
        plan: the plan, with the devices it was made for.
        models: what was asked for.
        interference: kappa and levels the plan was made with.
        host_memory_bytes: memory for engines by host name, if no CPU device states it.
        before: what ran when the plan was asked for, and what may be done to it.
    """
    asked, memory = {demand.model: demand for demand in models}, dict(host_memory_bytes)
    demands, stay = as_held_back(plan, asked, before)
    found = list(_check_names(plan, demands))
    if found:
        return tuple(found)
    on = by_key((p.device_id, p) for p in plan.placements)
    levels = levels_of(plan.placements, interference)
    for device in plan.devices:
        here, level = tuple(on[device.id]), levels.get(device.id, 1.0)
        found.extend(f.text for f in check_device(device, here, demands, level))
    for host, there in sorted(by_key((d.host, d) for d in plan.devices).items()):
        held = [p for d in there for p in on[d.id]]
        found.extend(f.text for f in check_host(host, there, held, memory.get(host)))
    rates = rates_of(plan.placements, levels)
    placed = by_key((p.model, p) for p in plan.placements)
    excuses = {u.model: u for u in reversed(plan.unplaced)}
    forecasts = {f.model: f for f in reversed(plan.forecasts)}
    for name, demand in demands.items():
        mine, excuse = placed[name], excuses.get(name)
        rate, forecast = rates.get(name, 0.0), forecasts.get(name)
        found.extend(check_model(demand, len(mine), rate, excuse, forecast))
        new = [p for p in mine if p.replica_id not in stay]
        found.extend(f.text for f in check_slo(new, asked[name], levels))
        whole = excuse is None and len(new) == len(mine)
        found.extend(check_rules(plan, new, asked[name], levels if whole else None))
    found.extend(check_certificate(plan, demands, rates, memory, interference))
    found.extend(
        check_changes(plan, demands, before, stay, interference=interference, host_memory=memory)
    )
    return tuple(found)


def _check_names(plan: Plan, demands: Mapping[str, ModelDemand]) -> Iterator[str]:
    ids = collections.Counter(p.replica_id for p in plan.placements)
    yield from (f"replica id {i} is used {n} times" for i, n in ids.items() if n > 1)
    devices = collections.Counter(d.id for d in plan.devices)
    yield from (f"device id {i} is listed {n} times" for i, n in devices.items() if n > 1)
    for p in plan.placements:
        if p.device_id not in devices:
            yield f"{p.replica_id} is on device {p.device_id}, which does not exist"
        if p.partition.device_id != p.device_id:
            yield f"{p.replica_id} is on {p.device_id} but its partition on {p.partition.device_id}"
        if p.model not in demands:
            yield f"{p.replica_id} serves {p.model}, which was not asked for"
        elif p.candidate not in demands[p.model].candidates:
            yield f"{p.replica_id} runs at a point that is no candidate of {p.model}"
    for u in plan.unplaced:
        if u.model not in demands:
            yield f"{u.model} is unplaced but was not asked for"


def check_model(
    demand: ModelDemand,
    replicas: int,
    rate: float,
    excuse: Unplaced | None,
    forecast: ModelForecast | None,
) -> Iterator[str]:
    """Yield violations of one model's demand, numbers and excuse, given its replicas and rate."""
    if demand.max_replicas is not None and replicas > demand.max_replicas:
        yield f"{demand.model} has {replicas} replicas, at most {demand.max_replicas} are wanted"
    if excuse is None and replicas < max(1, demand.min_replicas):
        yield f"{demand.model} has {replicas} replicas and is not listed as unplaced"
    wanted = demand.demand.planned_req_per_s
    missing = 0.0 if wanted is None else wanted - rate
    if excuse is None and wanted is not None and missing > RELATIVE * wanted:
        yield f"{demand.model} gets {rate:.4g} of {wanted:.4g} requests/s and is not unplaced"
    claim = None if excuse is None else excuse.missing_req_per_s
    if claim is not None and abs(claim - max(0.0, missing)) > RELATIVE * (wanted or 0.0):
        yield f"{demand.model} lacks {missing:.4g} requests/s, the plan says otherwise"
    if forecast is None or forecast.replicas != replicas:
        yield f"{demand.model} has {replicas} replicas, its forecast says otherwise"
    elif abs(forecast.capacity_req_per_s - rate) > RELATIVE * rate:
        yield f"{demand.model} gets {rate:.4g} requests/s, its forecast says otherwise"
