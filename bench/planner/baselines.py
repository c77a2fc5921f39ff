"""What the planner is measured against: two greedy rules, and CP-SAT as one would write it down."""

import dataclasses
import time
from typing import Any

from ortools.sat.python import cp_model

from partitiond.core.plan import Objective
from partitiond.planner.bound import make_entries
from partitiond.planner.greedy import first_fit
from partitiond.planner.instance import RATE_SCALE, Instance
from partitiond.planner.packing import Packing


@dataclasses.dataclass(frozen=True, slots=True)
class Baseline:
    """One baseline on one instance.

    Attributes:
        value: devices or weighted requests/s; None where it found no answer.
        seconds: it took.
    """

    value: float | None
    seconds: float


def greedy(instance: Instance, *, best: bool) -> Baseline:
    """First-fit or best-fit decreasing."""
    began = time.perf_counter()
    packing = first_fit(instance, make_entries(instance), best=best)
    return Baseline(value_of(packing), time.perf_counter() - began)


def value_of(packing: Packing) -> float | None:
    """Devices, or weighted requests/s; None where not all is served that has to be."""
    if packing.instance.request.objective is Objective.MAX_GOODPUT:
        return packing.goodput()
    return None if packing.lacking() else float(len(packing.used()))


def plain_cp_sat(instance: Instance, seconds: float, workers: int) -> Baseline:
    """One integer variable for each model, size and GPU, and one boolean for each GPU.

    For the instances of `bench.planner.instances`: one kind of device, one way to run it.
    """
    began = time.perf_counter()
    model = cp_model.CpModel()
    group = instance.groups[0]
    option = next(k for k, o in enumerate(group.options) if o.mode is not None)
    limit, fit = group.options[option].max_items, group.fits[option]
    used = [model.new_bool_var(f"used_{d}") for d in group.bins]
    count = {(d, i): model.new_int_var(0, limit, f"count_{d}_{i}") for d in group.bins for i in fit}
    memory = instance.memory(group, group.options[option])
    for d, here in zip(group.bins, used, strict=True):
        mine = [(count[d, i], instance.items[i]) for i in fit]
        model.add(sum(x * it.memory_mib for x, it in mine) <= memory * here)
        model.add(sum(x * it.sm for x, it in mine) <= group.sm_percent * here)
        model.add(sum(x for x, _ in mine) <= limit * here)
    by_cost = instance.request.objective is not Objective.MAX_GOODPUT
    served = _demands(model, instance, count, option, by_cost=by_cost)
    if by_cost:
        model.minimize(sum(used))
    else:
        model.maximize(sum(served))
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = workers
    solver.parameters.max_time_in_seconds = seconds
    outcome = solver.solve(model)
    value = None
    if outcome in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        value = solver.objective_value / (1 if by_cost else RATE_SCALE)
    return Baseline(value, time.perf_counter() - began)


def _demands(
    model: cp_model.CpModel,
    instance: Instance,
    count: dict[tuple[int, int], Any],
    option: int,
    *,
    by_cost: bool,
) -> list[Any]:
    """Rates at least the needs, or variables for what is served of them."""
    how, rates = instance.groups[0].options[option], dict[int, list[Any]]()
    for (_, i), x in count.items():
        rates.setdefault(instance.items[i].model, []).append(x * instance.rate(i, how))
    served = []
    for need in instance.needs:
        total = sum(rates.get(need.model, []))
        if by_cost:
            model.add(total >= need.rate)
            continue
        got = model.new_int_var(0, need.rate, f"served_{need.model}")
        model.add(got <= total)
        served.append(got)
    return served


__all__ = ["Baseline", "greedy", "plain_cp_sat", "value_of"]
