"""Runs the members, keeps the best, and among plans as good takes the one near what runs."""

import dataclasses
import random
from typing import Final

from partitiond.core.plan import Objective, Status
from partitiond.planner.assign import bytes_to_load
from partitiond.planner.bound import Bound, bound_cost, bound_goodput
from partitiond.planner.covers import pack_covers, pack_goodput
from partitiond.planner.exact import (
    MAX_VARIABLES,
    Exact,
    Goal,
    solve_exact,
    variable_count,
)
from partitiond.planner.greedy import (
    Guide,
    Strategy,
    drop_surplus,
    first_fit,
    most_goodput,
    serve_all,
    strategies,
)
from partitiond.planner.instance import Instance
from partitiond.planner.packing import Packing
from partitiond.planner.running import restore, running_packing, staying_items
from partitiond.planner.share import fill, share_value

NEAR: Final = 0.01
"""Plans within this of the best primary value count as equally good."""
NEAR_SHARE: Final = 0.05
"""The same for the shares of models without a rate, which are worth less than a restart."""
COST_SHARE: Final = 0.2
"""Deterministic seconds for the primary value per second of the time limit: CP-SAT needs up to
three wall-clock seconds for one of them."""
SHARE_SHARE: Final = 0.1
EPSILON: Final = 1e-6
LEAST_USED: Final = 0.3
"""Devices run a way in the relaxation, from which on a start uses that way alone."""
COVER_NOISE: Final = 0.15
GOODPUT_PROVEN: Final = 1e-4


@dataclasses.dataclass(frozen=True, slots=True)
class Found:
    """The portfolio's answer.

    Attributes:
        packing: the plan.
        objective: the level that `value` and `bound` speak of.
        proven_impossible: for a fallback from MIN_DEVICES: serving everything is proven
            impossible (True), was not found in time (False); None where it is no fallback.
        first_fit: the objective's value under first-fit decreasing, None where that fails.
    """

    packing: Packing
    objective: Objective
    value: float
    bound: float
    status: Status
    method: str
    proven_impossible: bool | None
    first_fit: float | None


@dataclasses.dataclass(frozen=True, slots=True)
class _Member:
    name: str
    packing: Packing


def _member(name: str, packing: Packing) -> _Member:
    """A packing without surplus, every device at the lowest level that holds what is on it."""
    replicas = -1
    while replicas != sum(packing.counts.values()):
        replicas = sum(packing.counts.values())
        packing.settle()
        drop_surplus(packing, rated_only=True)
    packing.settle()
    return _Member(name, packing)


def solve_portfolio(instance: Instance) -> Found:
    """The best plan for the request's objective; what cannot all be served is served in part."""
    if instance.request.objective is Objective.MAX_GOODPUT:
        return _solve_goodput(instance, None)
    bound = bound_cost(instance)
    if bound.value is None:
        return _solve_goodput(instance, proven_impossible=True)
    return _solve_cost(instance, bound, bound.value)


def _solve_cost(instance: Instance, bound: Bound, least: float) -> Found:
    guide, seconds = Guide(instance, bound), instance.request.time_limit_seconds
    members = _cost_members(instance, guide, bound, least)
    best = min(members, key=lambda m: m.packing.cost(), default=None)
    exact = None
    if best is None or best.packing.cost() > least + EPSILON:
        exact = _exact_cost(instance, best, COST_SHARE * seconds)
        # With a plan in hand it would be no proof: devices dearer than that plan were left out.
        if best is None and exact is not None and exact.status is Status.INFEASIBLE:
            return _solve_goodput(instance, proven_impossible=True)
        if exact is not None and exact.bound is not None:
            least = max(least, exact.bound)
        if exact is not None and exact.packing is not None:
            members.append(_member("exact (CP-SAT)", exact.packing))
    if not members:
        return _solve_goodput(instance, proven_impossible=False)
    best = min(members, key=lambda m: m.packing.cost())
    cost = best.packing.cost()
    chosen = _nearest(
        instance, [m for m in members if m.packing.cost() <= cost * (1 + NEAR)], guide
    )
    value = chosen.packing.cost()
    baseline = first_fit(instance, bound.entries, best=False)
    return Found(
        packing=chosen.packing,
        objective=Objective.MIN_DEVICES,
        value=value,
        bound=min(least, value),
        status=Status.OPTIMAL if value <= least + EPSILON else Status.FEASIBLE,
        method=f"{chosen.name}; bound: {_bound_name(exact, least, bound.value)}",
        proven_impossible=None,
        first_fit=None if baseline.lacking() else baseline.cost(),
    )


def _bound_name(exact: Exact | None, least: float, weighted: float | None) -> str:
    better = exact is not None and weighted is not None and least > weighted + EPSILON
    return "exact (CP-SAT)" if better else "weighted resources"


def _cost_members(instance: Instance, guide: Guide, bound: Bound, least: float) -> list[_Member]:
    members = []
    for start in _kept_starts(instance):
        rng = random.Random(instance.request.seed)  # noqa: S311
        packing = serve_all(instance, guide, start, Strategy(0.0, 0.0), rng)
        if packing is not None:
            members.append(_member("kept what runs", packing))
            break
    members.extend(_greedy_cost(instance, guide, bound, least))
    for best, name in ((False, "first-fit decreasing"), (True, "best-fit decreasing")):
        packing = first_fit(instance, bound.entries, best=best)
        if not packing.lacking():
            members.append(_member(name, packing))
    return members


def _greedy_cost(instance: Instance, guide: Guide, bound: Bound, least: float) -> list[_Member]:
    """Both greedy packers from several starts, until one reaches the bound."""
    members: list[_Member] = []
    places = _place_choices(bound)
    for number, strategy in enumerate(strategies(bound, instance.request.time_limit_seconds)):
        rng = random.Random(f"{instance.request.seed}-{number}")  # noqa: S311
        by_set = pack_covers(
            instance,
            guide,
            places=places[number % len(places)],
            noise=0.0 if number < len(places) else COVER_NOISE,
            rng=rng,
        )
        by_model = serve_all(instance, guide, Packing(instance), strategy, rng)
        for name, packing in (("greedy by covers", by_set), ("greedy by prices", by_model)):
            if packing is not None:
                members.append(_member(name, packing))
        if any(m.packing.cost() <= least + EPSILON for m in members[-2:]):
            break
    return members


def _place_choices(bound: Bound) -> list[set[tuple[int, int]] | None]:
    """Ways to run devices that one start may use: all, each that the relaxation uses, those."""
    used = sorted((p for p, n in bound.used.items() if n >= LEAST_USED), key=bound.used.__getitem__)
    each: list[set[tuple[int, int]] | None] = [{place} for place in reversed(used)]
    return [None, *each, set(used)] if len(used) > 1 else [None]


def _kept_starts(instance: Instance) -> list[Packing]:
    """What runs now, then only what of it has to be there: a new model may need the rest."""
    staying = staying_items(instance)
    if not staying:
        return []
    needs = {need.model: need for need in instance.needs}
    trimmed = Packing(instance)
    for index, item, _ in staying:
        model = instance.items[item].model
        need = needs[model]
        if trimmed.counts[model] >= need.min_replicas and trimmed.rates[model] >= need.rate:
            continue
        option = trimmed.best_option(index, [*trimmed.loads[index].items, item])
        if option is not None and trimmed.pools_allow(index, item):
            if trimmed.loads[index].option not in (None, option):
                trimmed.rerun(index, option)
            trimmed.add(index, item, option)
    return [running_packing(instance, staying), trimmed]


def _exact_cost(instance: Instance, best: _Member | None, seconds: float) -> Exact | None:
    devices: list[int] = []
    for group in instance.groups:
        most = len(group.bins)
        if best is not None and group.price > 0:
            most = min(most, best.packing.cost_units() // group.price)
        devices.extend(group.bins[:most])
    if variable_count(instance, devices) > MAX_VARIABLES:
        return None
    hint = best.packing if best is not None else None
    return solve_exact(instance, Goal.COST, devices, hint, deterministic_seconds=seconds)


def _nearest(instance: Instance, members: list[_Member], guide: Guide) -> _Member:
    """Fill what is left over, then the fewest bytes to load among plans as good."""
    staying = staying_items(instance)
    filled = []
    for member in members:
        packing = member.packing.copy()
        if any(not need.rated for need in instance.needs):
            restore(packing, staying, may_open=False)
            fill(packing, guide, packing.used())
        filled.append(_member(member.name, packing))
    shared = _exact_share(instance, max(filled, key=lambda m: share_value(m.packing)))
    if shared is not None:
        filled.append(shared)
    most = max(share_value(m.packing) for m in filled)
    close = [m for m in filled if share_value(m.packing) >= most * (1 - NEAR_SHARE) - EPSILON]
    return min(
        close,
        key=lambda m: (
            bytes_to_load(instance, m.packing) if staying else 0,
            m.packing.cost(),
            -share_value(m.packing),
        ),
    )


def _exact_share(instance: Instance, best: _Member) -> _Member | None:
    """The even share solved exactly on the devices that the best plan uses."""
    devices = best.packing.used()
    unrated = [need for need in instance.needs if not need.rated]
    if not unrated or not devices or variable_count(instance, devices) > MAX_VARIABLES:
        return None
    found = solve_exact(
        instance,
        Goal.SHARE,
        devices,
        best.packing,
        deterministic_seconds=SHARE_SHARE * instance.request.time_limit_seconds,
        cost_limit=best.packing.cost_units(),
    )
    return None if found.packing is None else _member(best.name, found.packing)


def _solve_goodput(instance: Instance, proven_impossible: bool | None) -> Found:
    bound = bound_goodput(instance)
    guide = Guide(instance, bound)
    members = _goodput_members(instance, guide, bound)
    best = max(members, key=lambda m: _goodput_key(m.packing))
    exact, most = None, bound.value
    devices = list(range(len(instance.group_of)))
    proven = most is not None and best.packing.goodput() >= most * (1 - GOODPUT_PROVEN)
    if not (proven and best.packing.short_replicas() == 0) and (
        variable_count(instance, devices) <= MAX_VARIABLES
    ):
        seconds = COST_SHARE * instance.request.time_limit_seconds
        exact = solve_exact(
            instance, Goal.GOODPUT, devices, best.packing, deterministic_seconds=seconds
        )
        if exact.packing is not None:
            members.append(_member("exact (CP-SAT)", exact.packing))
            if exact.bound is not None and exact.packing.short_replicas() == 0:
                most = min(exact.bound, most if most is not None else exact.bound)
    best = max(members, key=lambda m: _goodput_key(m.packing))
    chosen = _nearest_goodput(instance, members, best, guide)
    value = chosen.packing.goodput()
    optimal = (exact is not None and exact.status is Status.OPTIMAL) or proven
    optimal = optimal and value >= best.packing.goodput() * (1 - GOODPUT_PROVEN)
    by_exact = most is not None and bound.value is not None and most < bound.value - EPSILON
    by_exact = by_exact or (exact is not None and exact.status is Status.OPTIMAL)
    baseline = first_fit(instance, bound.entries, best=False)
    return Found(
        packing=chosen.packing,
        objective=Objective.MAX_GOODPUT,
        value=value,
        bound=value if optimal or most is None else max(value, most),
        status=Status.OPTIMAL if optimal else Status.FEASIBLE,
        method=f"{chosen.name}; bound: {'exact (CP-SAT)' if by_exact else 'weighted resources'}",
        proven_impossible=proven_impossible,
        first_fit=baseline.goodput(),
    )


def _goodput_key(packing: Packing) -> tuple[int, float]:
    return (-packing.short_replicas(), packing.goodput())


def _goodput_members(instance: Instance, guide: Guide, bound: Bound) -> list[_Member]:
    members = []
    for start in _kept_starts(instance):
        rng = random.Random(instance.request.seed)  # noqa: S311
        packing = most_goodput(instance, guide, start, Strategy(0.0, 0.0), rng)
        members.append(_member("kept what runs", packing))
    places = _place_choices(bound)
    for number, strategy in enumerate(strategies(bound, instance.request.time_limit_seconds)):
        rng = random.Random(f"{instance.request.seed}-{number}")  # noqa: S311
        noise = 0.0 if number < len(places) else COVER_NOISE
        chosen = places[number % len(places)]
        packing = pack_goodput(instance, guide, places=chosen, noise=noise, rng=rng)
        members.append(_member("greedy by covers", packing))
        packing = most_goodput(instance, guide, Packing(instance), strategy, rng)
        members.append(_member("greedy by prices", packing))
    for best, name in ((False, "first-fit decreasing"), (True, "best-fit decreasing")):
        members.append(_member(name, first_fit(instance, bound.entries, best=best)))
    return members


def _nearest_goodput(
    instance: Instance, members: list[_Member], best: _Member, guide: Guide
) -> _Member:
    """As `_nearest`, with goodput as the primary value and all devices to fill."""
    staying = staying_items(instance)
    short, value = best.packing.short_replicas(), best.packing.goodput()
    close = [
        m
        for m in members
        if m.packing.short_replicas() <= short and m.packing.goodput() >= value * (1 - NEAR)
    ]
    if not staying:
        close = [best]
    mixed = len({need.rated for need in instance.needs}) > 1
    filled = []
    for member in close:
        packing = member.packing.copy()
        if mixed:
            restore(packing, staying, may_open=True)
            fill(packing, guide, range(len(packing.loads)))
        filled.append(_member(member.name, packing))
    return min(
        filled,
        key=lambda m: (
            bytes_to_load(instance, m.packing) if staying else 0,
            -m.packing.goodput(),
        ),
    )
