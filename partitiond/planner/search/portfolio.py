"""Runs the planner's members and keeps the best plan; of equally good plans, the nearest to now.

Always run: the bound by linear prices, and the completion of what runs. Then a first plan of the
compiled search. A plan that meets the bound ends the solve. Small instances go to CP-SAT, which
proves. Others go to the compiled search, from the best plan (which for goodput may be one by
columns) until the time is over or the bound is met. Every plan found is reported to the watch, so
its best one is the answer at any time.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Final

from partitiond.core.plan.record import Objective, Status
from partitiond.planner.bounds.prices import SAMPLE, Prices, linear_prices, pours_of
from partitiond.planner.columns.search import expresses, plan_by_columns
from partitiond.planner.exact import Exact, Goal, Stage, solve_exact, variable_count
from partitiond.planner.model.sites import build_sites
from partitiond.planner.model.types import RATE_SCALE, Instance
from partitiond.planner.pack.assign import applied
from partitiond.planner.pack.members import EPSILON, EXACT, KEPT, Member, drop_surplus, member
from partitiond.planner.pack.moves import count_of_moves
from partitiond.planner.pack.packing import Packing
from partitiond.planner.pack.running import running_packing
from partitiond.planner.progress.answer import SolveAnswer
from partitiond.planner.progress.watch import OnProgress, SolveMonitor
from partitiond.planner.search.improve import Improver
from partitiond.planner.search.nearest import OUTAGE, May, nearest_cost, nearest_goodput
from partitiond.planner.search.priorities import (
    class_by_class,
    classes_of,
    exact_classes,
    goodput_key,
)
from partitiond.planner.search.repair import kept
from partitiond.planner.search.scale import LINEAR, evaluate_factor, factor_of, largest_factor
from partitiond.planner.search.searching import begun, search
from partitiond.planner.stop import Stop, never

COST_SHARE: Final = 0.2
"""Deterministic seconds for CP-SAT per second of the time limit: one of them takes CP-SAT up to
three wall-clock seconds. Chosen."""
EXACT_SHARE: Final = 0.6
"""Share of the time left for CP-SAT; the rest is for the search if it proves nothing. Chosen."""
HOPE_SHARE: Final = 0.3
"""If no plan serves everything yet: the most goodput may need time as well. Chosen."""
SMALL: Final = 2_500
"""Variables up to which CP-SAT is used: beyond, the compiled search is better in a second than
CP-SAT in a minute (docs/decisions/0026). 100 models on 64 devices have 8,000."""
BEGIN_SHARE: Final = 0.05
"""Share of the time for the first plan, where CP-SAT does not go on from it. Chosen."""
TINY: Final = 60
"""Variables up to which CP-SAT runs before the search. Chosen, not measured."""
CONVERGE: Final = 200
"""Models up to which columns soon prove more than linear prices of all resources. Chosen."""


def solve_portfolio(
    instance: Instance,
    on_progress: OnProgress | None = None,
    stop: Stop = never,
    may: May = lambda _packing: 0,
    began: float | None = None,
) -> SolveAnswer:
    """Return the best plan for the request's objective; what does not fit is served in part.

    Args:
        instance: the problem instance.
        on_progress: called periodically with the progress, in the thread that found something.
        stop: called periodically; True ends the solve with the best plan so far.
        may: the objection to a packing: the best packing among those with the least is chosen.
        began: when the time limit began, in `time.monotonic`; None for now.
    """
    watch = SolveMonitor(instance, on_progress, stop, began)
    objective = instance.request.objective
    if objective.is_cost:
        prices = _prices(instance, as_cost=True)
        found = _solve_cost(watch, prices, may)
        if found is None and instance.request.all_or_nothing:
            return SolveAnswer(Packing(instance), objective, 0.0, 0.0, Status.FEASIBLE, "none")
        found = found or _solve_goodput(watch, watch.impossible, may)
        if found.proven_impossible is False and not found.packing.lacking():
            # It answers what was asked, which the search for the least cost did not find.
            drop_surplus(found.packing)
            watch.restart(objective)
            known = [member("most goodput", found.packing)]
            found = _solve_cost(watch, prices, may, known) or found
        return found
    if objective is Objective.MAX_GOODPUT:
        return _solve_goodput(watch, None, may)
    return _solve_scaled(watch, may)


def _beside(members: list[Member], chosen: Member, may: May, *, by_cost: bool) -> Packing | None:
    """Return the best plan without an outage, if the chosen one has one that is not allowed."""
    if may(chosen.packing) < OUTAGE:
        return None
    best = _best([one for one in members if may(one.packing) < OUTAGE], by_cost)
    return None if best is None else best.packing


@dataclasses.dataclass(slots=True)
class _Gathered:
    """The plans and proofs of the members.

    Attributes:
        exact: the result of CP-SAT, if it was used.
        proof: the name of the bound's proof, if it is not CP-SAT's.
        class_bounds: bounds by CP-SAT for each priority, by position.
    """

    members: list[Member]
    exact: Exact | None = None
    proof: str = LINEAR
    class_bounds: dict[int, float] = dataclasses.field(default_factory=dict)


def _gather(
    watch: SolveMonitor, prices: Prices, ready: Sequence[Member], *, by_cost: bool
) -> _Gathered:
    """Run all members in turn, until a plan is proven the best or the time is over."""
    instance, size = watch.instance, _variables(watch.instance)
    may_search = instance.request.may_search
    watch.take(ready)
    found = _Gathered(
        [*ready, *kept(watch, prices.entry, by_cost=by_cost, searches=size > TINY and may_search)]
    )

    def over() -> bool:  # for goodput there is always a plan
        return watch.done or (watch.stop() and (by_cost or bool(found.members)))

    if over():  # as when nothing has changed
        return found
    seed, sites = instance.request.seed, build_sites(instance)
    improver = Improver(sites, prices.entry, by_cost=by_cost, seed=seed)
    share = BEGIN_SHARE if size > SMALL and may_search else 0.0
    found.members += _answers(begun(watch, improver, share), by_cost)
    if size <= SMALL and not watch.done:
        status = _ask_exact(watch, found, by_cost=by_cost)
        unplanned = by_cost and not found.members
        if status is Status.OPTIMAL or (unplanned and status is Status.INFEASIBLE):
            return found
    if over():
        return found
    start = _best(found.members, by_cost)
    if not by_cost and expresses(instance):
        # It may miss least numbers that a worse plan has; the search adds them to it.
        start, better = plan_by_columns(watch, improver.completed, start)
        found.proof = "columns" if better else LINEAR
        found.members.append(start)
    if may_search or start is None:
        searched = search(watch, start, prices.entry, by_cost=by_cost)
        found.members += _answers(searched, by_cost)
    return found


def _prices(instance: Instance, *, as_cost: bool) -> Prices:
    """Return the price of each replica, and the bound that the prices prove."""
    most = pours_of(instance.request.time_limit_seconds)
    if not as_cost and len(instance.needs) <= CONVERGE and expresses(instance):
        most = SAMPLE  # columns prove more
    return linear_prices(build_sites(instance), as_cost=as_cost, most=most)


def _answers(members: list[Member], by_cost: bool) -> list[Member]:
    """Return the valid answers: by cost, only the plans that lack nothing under any rule."""
    return [m for m in members if not m.packing.lacking()] if by_cost else members


def _best(members: list[Member], by_cost: bool) -> Member | None:
    if by_cost:
        return min(members, key=lambda m: m.packing.cost(), default=None)
    return max(members, key=goodput_key, default=None)


def _ask_exact(watch: SolveMonitor, found: _Gathered, *, by_cost: bool) -> Status | None:
    """Run CP-SAT from the best plan, keep its plans and bounds, and return its status."""
    if watch.done:
        return None
    best = _best(found.members, by_cost)
    hint = None if best is None else best.packing
    exact = found.exact = _exactly(watch, found, hint, by_cost=by_cost)
    if exact is None:
        return None
    if exact.packing is not None:
        found.members.append(member(EXACT, exact.packing))
    if exact.bound is not None:
        watch.proved(exact.bound)
    watch.take(found.members)
    return exact.status


def _exactly(
    watch: SolveMonitor,
    found: _Gathered,
    hint: Packing | None,
    *,
    by_cost: bool,
    stays: Packing | None = None,
) -> Exact | None:
    """Run CP-SAT for the least cost, or for the most goodput by priority."""
    classes, every = classes_of(watch.instance), [*range(len(watch.instance.group_of))]
    if by_cost:
        devices = every if stays else _devices_at_most(watch.instance, hint)
        return _exact(watch, Goal.COST, devices, hint, stays=stays)
    if len(classes) < 2 or hint is None:
        return _exact(watch, Goal.GOODPUT, every, hint, stays=stays)
    return exact_classes(
        classes,
        found.members,
        found.class_bounds,
        lambda hint, stage, share: _exact(
            watch, Goal.GOODPUT, every, hint, stage=stage, share=share, stays=stays
        ),
    )


def _add_starts_alone(watch: SolveMonitor, found: _Gathered, may: May, *, by_cost: bool) -> None:
    """Add the best plan beside all that runs, if the best of all moves replicas, or has an outage
    that is not allowed: what was completed greedily may serve less. What gives a model a first
    replica that is no least number, and others less than that, is no plan."""
    instance, best = watch.instance, _best(found.members, by_cost)
    if best is None:
        return
    out = may(best.packing) >= OUTAGE
    moves = 0 if by_cost else count_of_moves(instance, applied(instance, best.packing))
    if not (out or moves):
        return
    runs = running_packing(instance)
    if out and not by_cost:  # beside what is started, an instance may not be where it is
        found.members.append(member(f"{KEPT}, as it is", runs.copy()))
    if _variables(instance) > SMALL:
        return
    hint = next((m for m in found.members if m.name == KEPT), Member(KEPT, runs))
    # What has to be near a model that does not run may have it started beside it, or leave.
    for stays in (running_packing(instance, company=False), runs):
        alone = _Gathered([hint])
        exact = _exactly(watch, alone, hint.packing, by_cost=by_cost, stays=stays)
        tried = [one.packing for one in alone.members[1:]]
        if exact is not None and exact.packing is not None:
            tried.append(exact.packing)
        made = [member(f"{KEPT}, {EXACT}", packing) for packing in tried]
        best = None if by_cost else max([*made, hint], key=goodput_key)
        found.members += [one for one in made if by_cost or one is best]
        if stays.counts == runs.counts:
            break


def _solve_cost(
    watch: SolveMonitor, prices: Prices, may: May, known: Sequence[Member] = ()
) -> SolveAnswer | None:
    """Solve for the least cost, from known plans that serve everything; None if no plan does, or
    none is found."""
    least = prices.value
    if least is None:
        watch.impossible = True
        return None
    watch.proved(least)
    found = _gather(watch, prices, known, by_cost=True)
    # With a known plan this is no proof: devices more expensive than that plan were left out.
    if not found.members:
        exact = found.exact
        watch.impossible |= exact is not None and exact.status is Status.INFEASIBLE
        return None
    _add_starts_alone(watch, found, may, by_cost=True)
    chosen = nearest_cost(watch, found.members, may=may)
    least = watch.bound if watch.bound is not None else least
    best = min(found.members, key=lambda m: m.packing.cost())
    optimal = chosen.packing.cost() <= least + EPSILON
    answer = _answer(watch, found, chosen, best=best, bound=least, optimal=optimal)
    beside = _beside(found.members, chosen, may, by_cost=True)
    return dataclasses.replace(answer, beside=beside)


def _answer(
    watch: SolveMonitor,
    found: _Gathered,
    chosen: Member,
    *,
    best: Member,
    bound: float,
    optimal: bool,
) -> SolveAnswer:
    """Return the chosen plan as the answer for the watch's present objective."""

    def value(one: Member) -> float:
        return one.packing.cost() if watch.objective.is_cost else one.packing.goodput()

    exact, proof = found.exact, found.proof
    if exact is not None and exact.bound is not None:
        near = abs(exact.bound - bound) <= EPSILON * max(1.0, abs(bound))
        proof = EXACT if near or exact.status is Status.OPTIMAL else proof
    return SolveAnswer(
        packing=chosen.packing,
        objective=watch.objective,
        value=value(chosen),
        bound=bound,
        status=Status.OPTIMAL if optimal else Status.FEASIBLE,
        method=f"{chosen.name}; bound: {proof}",
        best_value=value(best),
    )


def _solve_goodput(watch: SolveMonitor, proven_impossible: bool | None, may: May) -> SolveAnswer:
    instance, classes = watch.instance, classes_of(watch.instance)
    watch.restart(Objective.MAX_GOODPUT)
    prices = _prices(instance, as_cost=False)
    bound = math.inf if prices.value is None else prices.value
    if math.isfinite(bound):
        watch.proved(bound)
    if len(classes) > 1 and any(need.rated for need in instance.needs):
        watch.proved(math.fsum(n.worth * n.rate for c in classes for n in c.needs) / RATE_SCALE)
    found = _gather(watch, prices, (), by_cost=False)
    _add_starts_alone(watch, found, may, by_cost=False)
    members = found.members
    exact, most = found.exact, math.inf if watch.bound is None else watch.bound
    best, until = max(found.members, key=goodput_key), watch.finish()
    chosen = nearest_goodput(instance, found.members, may=may, stop=until)
    if chosen.packing.short_replicas() > best.packing.short_replicas():
        # CP-SAT's proofs are of plans that miss as few of the least numbers as its own.
        found, exact, best, most = _Gathered([chosen]), None, chosen, bound
    short, value = best.packing.short_replicas(), best.packing.goodput()
    proven = value >= most * (1 - EPSILON) and short == 0
    optimal = (exact is not None and exact.status is Status.OPTIMAL) or proven
    optimal = optimal and chosen.packing.goodput() >= value * (1 - EPSILON)
    answer = _answer(watch, found, chosen, best=best, bound=most, optimal=optimal)
    beside = _beside(members, chosen, may, by_cost=False)
    answer = dataclasses.replace(answer, proven_impossible=proven_impossible, beside=beside)
    return _by_class(watch, found, answer)


def _by_class(watch: SolveMonitor, found: _Gathered, answer: SolveAnswer) -> SolveAnswer:
    """Return the answer for the most goodput with the bound of each priority."""
    classes = classes_of(watch.instance)
    if len(classes) < 2:
        single = tuple((c.priority, answer.bound / c.factor) for c in classes if c.priority)
        return dataclasses.replace(answer, class_bounds=single)
    return class_by_class(watch, classes, found.members, answer, found.class_bounds)


def evaluate(packing: Packing, objective: Objective, name: str) -> SolveAnswer:
    """Return a packing that was found by other means as the answer, with a quick bound.

    Args:
        packing: the packing; under a cost objective it must lack nothing.
        objective: the objective to appraise it by.
        name: the method that found it.
    """
    watch, one = SolveMonitor(packing.instance), Member(name, packing)
    watch.restart(objective)
    if objective is Objective.MAX_MIN:
        return evaluate_factor(watch, packing, name)
    bound, found = _prices(packing.instance, as_cost=objective.is_cost).value, _Gathered([one])
    bound = math.inf if bound is None else bound
    answer = _answer(watch, found, one, best=one, bound=bound, optimal=False)
    return answer if objective.is_cost else _by_class(watch, found, answer)


def _solve_scaled(watch: SolveMonitor, may: May) -> SolveAnswer:
    """Maximise the common factor (`planner.search.scale`); the most goodput if no factor is above
    0."""
    instance = watch.instance
    large = _variables(instance) > SMALL
    raised = largest_factor(
        watch,
        searches=large or (_variables(instance) > TINY and instance.request.may_search),
        exact=not large,
    )
    if raised.best is not None:
        return raised.answer(raised.best, may)
    served = _solve_goodput(watch, raised.bound < 0 and not raised.met(), may)
    # A plan that misses least numbers is not valid for this objective, whatever is proven of it.
    if raised.bound < 0 or served.packing.short_replicas():
        return served
    # Not every model gets a replica: the smallest share is 0, and the rest is goodput.
    return dataclasses.replace(
        served,
        objective=instance.request.objective,
        value=factor_of(served.packing, raised.target),
        bound=raised.bound,
        status=Status.OPTIMAL if raised.met() else Status.FEASIBLE,
        proven_impossible=None,
        best_value=None,
        class_bounds=(),
    )


def _variables(instance: Instance) -> int:
    return variable_count(instance, [*range(len(instance.group_of))])


def _devices_at_most(instance: Instance, hint: Packing | None) -> list[int]:
    """Return devices of each group, without those that together cost more than the known plan."""
    devices = list[int]()
    for group in instance.groups:
        most = len(group.bins)
        if hint is not None and group.price > 0 and not instance.ties.by_host:
            most = min(most, hint.cost_units() // group.price)
        devices.extend(group.bins[:most])
    return devices


def _exact(
    watch: SolveMonitor,
    goal: Goal,
    devices: list[int],
    hint: Packing | None,
    *,
    stage: Stage | None = None,
    stays: Packing | None = None,
    share: float = 1.0,
) -> Exact | None:
    """Run CP-SAT from a packing in a share of its time."""
    instance, left = watch.instance, watch.left()
    if left <= 0:
        return None
    part = EXACT_SHARE if hint else HOPE_SHARE
    return solve_exact(
        instance,
        goal,
        devices,
        hint,
        deterministic_seconds=share * COST_SHARE * instance.request.time_limit_seconds,
        wall_seconds=math.inf if watch.fixed else share * part * left,
        stop=watch.stop,
        stage=stage,
        stays=stays,
    )
