"""The same question as CP-SAT, for small instances, hinted with the best packing so far.

Variables: for each device whether it is used and how it is run, and how many of each item it
holds when run that way. One builder per constraint; `solve_exact` only assembles.
"""

import dataclasses
import enum
import itertools
from typing import Any, Final

from ortools.sat.python import cp_model

from partitiond.core.plan import Status
from partitiond.planner.instance import PRICE_SCALE, RATE_SCALE, Group, Instance, Need
from partitiond.planner.packing import Packing

MAX_VARIABLES: Final = 8_000
"""Integer variables up to which CP-SAT is worth its start on one core."""
SHARE_UNITS: Final = 10_000
OBJECTIVE_LIMIT: Final = 10**15
"""Largest objective; CP-SAT sums in 64 bits."""


class Goal(enum.Enum):
    """What one solve is for."""

    COST = "cost"
    """Cover everything at the least cost."""
    GOODPUT = "goodput"
    """Least numbers of replicas, then weighted requests/s."""
    SHARE = "share"
    """Cover everything at no more than a given cost; then even, weighted shares of the rest."""


@dataclasses.dataclass(frozen=True, slots=True)
class Exact:
    """What CP-SAT found.

    Attributes:
        status: optimal, feasible, infeasible or out of time (nothing known).
        packing: the packing, where there is one.
        bound: proven bound on the cost, or on the weighted requests/s of plans that hold the
            least numbers of replicas; None where nothing is proven and for `Goal.SHARE`.
    """

    status: Status
    packing: Packing | None
    bound: float | None


@dataclasses.dataclass(slots=True)
class _Variables:
    """Variables by device; keys are (device, option) and (device, option, item)."""

    used: dict[int, Any]
    run: dict[tuple[int, int], Any]
    count: dict[tuple[int, int, int], Any]


def variable_count(instance: Instance, devices: list[int]) -> int:
    """Integer variables that the instance takes with these devices."""
    sizes = [sum(len(fit) for fit in g.fits) for g in instance.groups]
    return sum(sizes[instance.group_of[index]] for index in devices)


def solve_exact(
    instance: Instance,
    goal: Goal,
    devices: list[int],
    hint: Packing | None,
    *,
    deterministic_seconds: float,
    cost_limit: int = 0,
) -> Exact:
    """Solve for one goal on some of the devices.

    Args:
        instance: the question.
        goal: what to optimise.
        devices: devices that may be used; others stay empty.
        hint: a packing to start from; for `Goal.SHARE` it must cover everything.
        deterministic_seconds: CP-SAT's deterministic time. The wall clock limits at six times
            that, for machines too slow or busy to be deterministic on.
        cost_limit: for `Goal.SHARE`: what the devices may cost, in 1 / PRICE_SCALE.
    """
    model, unit = cp_model.CpModel(), 1.0 / PRICE_SCALE
    variables = _variables(model, instance, devices)
    for index in devices:
        add_device_limits(model, instance, variables, index)
    add_pools(model, instance, variables)
    add_order(model, instance, variables)
    if goal is Goal.GOODPUT:
        unit = _maximise_goodput(model, instance, variables)
    else:
        add_demands(model, instance, variables)
        if goal is Goal.COST:
            model.minimize(_cost(instance, variables))
        else:
            _maximise_share(model, instance, variables, cost_limit)
    if hint is not None:
        _add_hint(model, variables, hint)
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.random_seed = instance.request.seed
    solver.parameters.max_deterministic_time = deterministic_seconds
    solver.parameters.max_time_in_seconds = 6 * deterministic_seconds
    outcome = solver.solve(model)
    packing, status = _read(instance, variables, solver, outcome)
    bound = solver.best_objective_bound * unit if packing and goal is not Goal.SHARE else None
    return Exact(status, packing, bound)


def _variables(model: cp_model.CpModel, instance: Instance, devices: list[int]) -> _Variables:
    found = _Variables({}, {}, {})
    for index in devices:
        group = instance.groups[instance.group_of[index]]
        found.used[index] = model.new_bool_var(f"used_{index}")
        for k, (option, fit) in enumerate(zip(group.options, group.fits, strict=True)):
            found.run[index, k] = model.new_bool_var(f"run_{index}_{k}")
            for item in fit:
                most = min(option.max_items, _most(instance, group, item))
                name = f"count_{index}_{k}_{item}"
                found.count[index, k, item] = model.new_int_var(0, most, name)
    return found


def _most(instance: Instance, group: Group, item: int) -> int:
    """Copies of one item that a device can hold at most."""
    it = instance.items[item]
    limits = [group.memory_mib // max(1, it.memory_mib)]
    limits += [100 // it.sm] if it.sm else []
    limits += [group.cores // it.cores] if group.cores and it.cores else []
    return min(limits)


def add_device_limits(
    model: cp_model.CpModel, instance: Instance, variables: _Variables, index: int
) -> None:
    """One way to run a device, and its memory, SMs, cores, number and load at that."""
    group = instance.groups[instance.group_of[index]]
    ways = [variables.run[index, k] for k in range(len(group.options))]
    model.add(sum(ways) == variables.used[index])
    for k, (option, fit) in enumerate(zip(group.options, group.fits, strict=True)):
        run = variables.run[index, k]
        here = [(variables.count[index, k, item], instance.items[item]) for item in fit]
        number = sum(count for count, _ in here)
        model.add(number <= option.max_items * run)
        model.add(number >= run)
        memory = instance.memory(group, option)
        model.add(sum(count * it.memory_mib for count, it in here) <= memory * run)
        if any(it.sm for _, it in here):
            model.add(sum(count * it.sm for count, it in here) <= 100 * run)
        if group.cores:
            model.add(sum(count * it.cores for count, it in here) <= group.cores * run)
        busy = sum(count * it.busy for count, it in here)
        if option.mode is None or not any(it.busy for _, it in here):
            continue
        if option.kappa == 0 or len(set(option.busy_limit)) == 1:
            model.add(busy <= option.busy_limit[-1] * run)
            continue
        size = model.new_int_var(0, option.max_items, f"size_{index}_{k}")
        limit = model.new_int_var(0, max(option.busy_limit), f"limit_{index}_{k}")
        model.add(size == number)
        model.add_element(size, option.busy_limit, limit)
        model.add(busy <= limit)


def add_pools(model: cp_model.CpModel, instance: Instance, variables: _Variables) -> None:
    """Cores and memory that devices of one host share."""
    for pool in instance.pools:
        taken = [
            count * instance.pool_use(pool, item)
            for (index, _, item), count in variables.count.items()
            if index in pool.bins
        ]
        if taken:
            model.add(sum(taken) <= pool.capacity)


def add_order(model: cp_model.CpModel, instance: Instance, variables: _Variables) -> None:
    """Of interchangeable devices, earlier ones are used first. (Ordering by load was worse.)"""
    for group in instance.groups:
        mine = [index for index in group.bins if index in variables.used]
        for earlier, later in itertools.pairwise(mine):
            model.add_implication(variables.used[later], variables.used[earlier])


def add_demands(model: cp_model.CpModel, instance: Instance, variables: _Variables) -> None:
    """Every model's rate, least and largest number of replicas."""
    by_model = _by_model(instance, variables)
    for need in instance.needs:
        mine = by_model.get(need.model, [])
        number = sum(count for count, _ in mine)
        model.add(number >= need.min_replicas)
        if need.max_replicas < 1_000_000:
            model.add(number <= need.max_replicas)
        if need.rate:
            # Rates beyond the demand count as the demand: the same plans, a tighter relaxation.
            model.add(sum(count * min(rate, need.rate) for count, rate in mine) >= need.rate)


def _by_model(instance: Instance, variables: _Variables) -> dict[int, list[tuple[Any, int]]]:
    found: dict[int, list[tuple[Any, int]]] = {}
    for (index, k, item), count in variables.count.items():
        option = instance.groups[instance.group_of[index]].options[k]
        rate = instance.rate(item, option)
        found.setdefault(instance.items[item].model, []).append((count, rate))
    return found


def _cost(instance: Instance, variables: _Variables) -> Any:
    groups = instance.groups
    return sum(groups[instance.group_of[i]].price * used for i, used in variables.used.items())


def _maximise_goodput(model: cp_model.CpModel, instance: Instance, variables: _Variables) -> float:
    """One replica of a least number is worth more than all requests together.

    Returns what one unit of the objective is at most, in weighted requests/s.
    """
    by_model = _by_model(instance, variables)
    rated = any(need.rated for need in instance.needs)
    heaviest = max(need.weight for need in instance.needs)
    devices = len(variables.used)
    most = {
        need.model: need.rate if need.rated else reference_rate(instance, need) * devices
        for need in instance.needs
        if need.rated == rated
    }
    scale = max(1, min(10_000, OBJECTIVE_LIMIT // max(1, sum(most.values()))))
    weight = {n.model: max(1, round(scale * n.weight / heaviest)) for n in instance.needs}
    replica = 1 + sum(weight[m] * limit for m, limit in most.items())
    terms = []
    for need in instance.needs:
        mine = by_model.get(need.model, [])
        number = sum(count for count, _ in mine)
        short = model.new_int_var(0, need.min_replicas, f"short_{need.model}")
        model.add(short >= need.min_replicas - number)
        terms.append(-replica * short)
        if need.max_replicas < 1_000_000:
            model.add(number <= need.max_replicas)
        if need.model in most:
            served = model.new_int_var(0, most[need.model], f"served_{need.model}")
            model.add(served <= sum(count * rate for count, rate in mine))
            terms.append(weight[need.model] * served)
    model.maximize(sum(terms))
    # Weights are rounded to whole numbers: the bound is widened by the largest relative error.
    true = {n.model: n.weight for n in instance.needs}
    return max(true[m] / weight[m] for m in most) / RATE_SCALE


def _maximise_share(
    model: cp_model.CpModel, instance: Instance, variables: _Variables, cost_limit: int
) -> None:
    """The smallest weighted share as large as possible, then the sum of shares."""
    model.add(_cost(instance, variables) <= cost_limit)
    by_model = _by_model(instance, variables)
    lowest = model.new_int_var(0, 1000 * SHARE_UNITS, "lowest")
    total = []
    for need in (n for n in instance.needs if not n.rated):
        unit = reference_rate(instance, need)
        mine = by_model.get(need.model, [])
        share = sum(count * (rate * SHARE_UNITS // unit) for count, rate in mine)
        model.add(lowest * max(1, round(100 * need.weight)) <= 100 * share)
        total.append(share)
    model.maximize(len(total) * 100 * lowest + sum(total))


def reference_rate(instance: Instance, need: Need) -> int:
    """What one device can give a model at most when it has it to itself."""
    best = 1
    for group in instance.groups:
        for option, fit in zip(group.options, group.fits, strict=True):
            for item in fit:
                if instance.items[item].model == need.model:
                    most = min(option.max_items, _most(instance, group, item))
                    best = max(best, most * instance.rate(item, option))
    return best


def _add_hint(model: cp_model.CpModel, variables: _Variables, hint: Packing) -> None:
    order = _hint_order(hint, sorted(variables.used))
    loads = {index: hint.loads[order[index]] for index in variables.used if index in order}
    for index, used in variables.used.items():
        model.add_hint(used, index in loads)
    for (index, k), run in variables.run.items():
        model.add_hint(run, index in loads and loads[index].option == k)
    for (index, k, item), count in variables.count.items():
        load = loads.get(index)
        held = load.items.count(item) if load is not None and load.option == k else 0
        model.add_hint(count, held)


def _hint_order(hint: Packing, devices: list[int]) -> dict[int, int]:
    """Which load of the hint goes to which device, so that used ones come first in each group."""
    order: dict[int, int] = {}
    for group in hint.instance.groups:
        here = [i for i in group.bins if i in devices]
        filled = [i for i in group.bins if hint.loads[i].items]
        order.update(zip(here, filled, strict=False))
    return order


def _read(
    instance: Instance, variables: _Variables, solver: cp_model.CpSolver, outcome: Any
) -> tuple[Packing | None, Status]:
    if outcome == cp_model.INFEASIBLE:
        return None, Status.INFEASIBLE
    if outcome not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return None, Status.OUT_OF_TIME
    packing = Packing(instance)
    for (index, k, item), count in variables.count.items():
        for _ in range(solver.value(count)):
            packing.add(index, item, k)
    packing.settle()
    return packing, Status.OPTIMAL if outcome == cp_model.OPTIMAL else Status.FEASIBLE
