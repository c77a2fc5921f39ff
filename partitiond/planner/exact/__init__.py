"""Solves the same problem in CP-SAT, if it is small, hinted with the best packing so far.

Each constraint has one builder, in `constraints`; `solve_exact` assembles them.
"""

import dataclasses
import math
import threading
from collections.abc import Callable
from typing import Any, Final

from partitiond.core.plan.record import Status
from partitiond.planner.exact.constraints import (
    add_demands,
    add_device_limits,
    add_order,
    add_pools,
    add_rules,
    add_staying,
)
from partitiond.planner.exact.objectives import (
    Goal,
    Scale,
    Stage,
    maximise_goodput,
    maximise_scale,
    maximise_share,
    total_cost,
)
from partitiond.planner.exact.solver import cp_model
from partitiond.planner.exact.variables import Variables, make_variables, variable_count
from partitiond.planner.model.ties import twins
from partitiond.planner.model.types import PRICE_SCALE, Instance
from partitiond.planner.pack.packing import Packing

POLL_SECONDS: Final = 0.05
"""A request to stop waits for at most this long."""

__all__ = [
    "MAX_VARIABLES",
    "Exact",
    "Goal",
    "Scale",
    "Stage",
    "solve_exact",
    "variable_count",
]

MAX_VARIABLES: Final = 30_000
"""Integer variables up to which CP-SAT is worth its start on one core. Chosen, not measured."""


@dataclasses.dataclass(frozen=True, slots=True)
class Exact:
    """The result of CP-SAT.

    Attributes:
        status: optimal, feasible, infeasible or out of time (nothing known).
        packing: the packing, if there is one.
        bound: proven bound on the cost, or on the weighted requests/s of plans that are short of
            no more replicas than the packing; None if nothing is proven, and for `Goal.SHARE`.
    """

    status: Status
    packing: Packing | None
    bound: float | None


def solve_exact(
    instance: Instance,
    goal: Goal,
    devices: list[int],
    hint: Packing | None,
    *,
    deterministic_seconds: float,
    cost_limit: int = 0,
    scale: Scale | None = None,
    wall_seconds: float = math.inf,
    stop: Callable[[], bool] = lambda: False,
    stage: Stage | None = None,
    stays: Packing | None = None,
) -> Exact:
    """Solve for one goal on some of the devices.

    Args:
        instance: the problem instance.
        goal: the goal to optimise.
        devices: devices that are decided; the others hold nothing.
        hint: a packing to start from; for `Goal.SHARE` it must cover everything.
        deterministic_seconds: CP-SAT's deterministic time. The wall clock limits at six times
            that, for machines too slow or busy to be deterministic on.
        cost_limit: for `Goal.SHARE`: limit on the devices' cost, in 1 / PRICE_SCALE.
        scale: for `Goal.SCALE`: the targets of the factor.
        wall_seconds: wall-clock limit, if the answer may depend on the clock.
        stop: called periodically; True ends the solve with the best packing so far.
        stage: for `Goal.GOODPUT`: which models count; None for all.
        stays: what load i holds stays on device i, as it does in a hint then.
    """
    model, unit, replica = cp_model.CpModel(), 1.0 / PRICE_SCALE, 0
    variables = make_variables(model, instance, devices, hint=hint)
    for index in devices:
        add_device_limits(model, instance, variables, index)
    add_pools(model, instance, variables)
    add_rules(model, instance, variables)
    if stays is None:
        add_order(model, instance, variables)
    else:
        add_staying(model, variables, stays)
    if goal is Goal.GOODPUT:
        unit, replica = maximise_goodput(model, instance, variables, stage)
    elif scale is not None:
        unit = maximise_scale(model, instance, variables, scale)
    else:
        add_demands(model, instance, variables)
        if goal is Goal.COST:
            model.minimize(total_cost(instance, variables))
        else:
            maximise_share(model, instance, variables, cost_limit)
    if hint is not None:
        _add_hint(model, variables, hint, as_it_is=stays is not None)
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1  # with more, the answer is not always the same
    solver.parameters.random_seed = instance.request.seed
    solver.parameters.max_deterministic_time = deterministic_seconds
    # It loses solutions in OR-Tools 9.15, see github.com/google/or-tools/issues/5293.
    solver.parameters.presolve_inclusion_work_limit = 0
    solver.parameters.max_time_in_seconds = min(6 * deterministic_seconds, wall_seconds)
    outcome = solve_stoppable(solver, model, stop)
    packing, status = _read(instance, variables, solver, outcome)
    bound = None
    if packing is not None and goal is not Goal.SHARE:
        # The factor is cut into steps: the step after the bound cannot be reached.
        more = 1 if goal is Goal.SCALE else replica * packing.short_replicas()
        # The bound is a whole number by its terms, but the solver returns it as a float.
        bound = (round(solver.best_objective_bound) + more) * unit
    return Exact(status, packing, bound)


def _add_hint(
    model: cp_model.CpModel, variables: Variables, hint: Packing, *, as_it_is: bool
) -> None:
    order = (
        {index: index for index in hint.used()}
        if as_it_is
        else _hint_order(hint, sorted(variables.used))
    )
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
    """Map devices to the hint's loads, with used devices first among interchangeable ones."""
    order: dict[int, int] = {}
    chosen = set(devices)
    for bins in twins(hint.instance):
        here = [i for i in bins if i in chosen]
        filled = [i for i in bins if hint.loads[i].items]
        order.update(zip(here, filled, strict=False))
    return order


def _read(
    instance: Instance, variables: Variables, solver: cp_model.CpSolver, outcome: Any
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


def solve_stoppable(
    solver: cp_model.CpSolver, model: cp_model.CpModel, stop: Callable[[], bool]
) -> Any:
    """Return the solver's status; once `stop` is True, with the best solution so far.

    In the main thread CP-SAT would block signals until it is done: an interrupt would only be
    handled at the end.
    """
    outcomes: list[Any] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            outcomes.append(solver.solve(model))
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits
            errors.append(error)

    thread = threading.Thread(target=work, name="cp-sat", daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            # A stop before the search has begun is ignored, so it is repeated.
            if stop():
                solver.stop_search()
            thread.join(POLL_SECONDS)
    except BaseException:
        solver.stop_search()
        raise
    if errors:
        raise errors[0]
    return outcomes[0]
