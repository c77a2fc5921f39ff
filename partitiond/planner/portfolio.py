"""Runs the members, keeps the best, and among plans as good takes the one near what runs.

Always: the weighted-resource bound and what runs, repaired. Then the greedy packers, where they
take a small part of the time, and the two baselines. A plan that meets the bound ends it there, and
no compiled code is loaded. Small instances: CP-SAT, which proves. The others: the compiled search
from a constructed plan until the time is over or the bound is met, with the column generation
beside it for bounds and further plans. The search is compiled where that was never done on this
machine, while the clock of the solve stands still. Where rules go beyond one device, a search a few
devices at a time has most of the time. Where the places of all sizes are too many to be listed, the
compiled search and the column generation have all of the time (`vast`), without the weighted bound,
greedy packers and CP-SAT. Whatever is found is told to the watch; the best of it is the answer,
whenever it ends.
"""

import contextlib
import dataclasses
import math
from collections.abc import Iterator
from typing import Final

from partitiond.core.plan import Objective, Status
from partitiond.planner.bound import Bound, bound_cost, bound_goodput
from partitiond.planner.by_class import class_by_class, exact_classes
from partitiond.planner.exact import Exact, Goal, Moves, Stage, solve_exact, variable_count
from partitiond.planner.found import Found
from partitiond.planner.greedy import Guide, start_seconds
from partitiond.planner.instance import PRICE_SCALE, RATE_SCALE, Instance
from partitiond.planner.members import (
    EPSILON,
    EXACT_WITH_MOVES,
    KEPT,
    MOST_STARTS,
    Member,
    baselines,
    greedy_cost,
    greedy_goodput,
    member,
)
from partitiond.planner.moves import price_of_a_move, staying_of
from partitiond.planner.nearest import (
    May,
    anything,
    goodput_key,
    nearest_cost,
    nearest_goodput,
    priced_cost,
    within_moves,
    worth_telling,
)
from partitiond.planner.next_best import on_other_kinds, without_each_kind
from partitiond.planner.packing import Packing
from partitiond.planner.priorities import classes_of
from partitiond.planner.progress import CompilingStopped, OnProgress, Stop, Watch, never
from partitiond.planner.repair import allowed_moves, improve_within, moves_of, repair_start
from partitiond.planner.rule_search import RuleSearch
from partitiond.planner.running import staying_items
from partitiond.planner.scale import Means, largest_factor, usual_means

COST_SHARE: Final = 0.2
"""Deterministic seconds for CP-SAT per second of the time limit: it needs up to three wall-clock
seconds for one of them."""
EXACT_SHARE: Final = 0.6
"""Share of the time that is left for CP-SAT; the rest is the search's, where it proves nothing."""
HOPE_SHARE: Final = 0.3
"""The same where no plan serves everything yet: the most goodput may need time as well."""
SMALL: Final = 2_500
"""Variables up to which CP-SAT is asked: beyond, the compiled search is better in a second than it
is in a minute. 100 models on 64 devices have 8,000."""
VAST: Final = 20_000
"""Places of items, by group, level and kappa, from which on they are not listed: a linear program
over so many takes longer than the column generation does."""
TINY: Final = 60
"""Variables up to which CP-SAT is done before compiled code is loaded."""
GREEDY_SHARE: Final = 0.1
"""Share of the time for greedy packers in larger instances: often one of them meets the bound, as
with twelve models on sixteen GPUs (30,000 variables) in half a second."""
REPAIR_SHARE: Final = 0.4
"""Share of the time for improving what runs, where something does."""
FEW_MOVES: Final = 3
"""So many moves are less than a device, at the usual price."""
BUDGET_SHARE: Final = 0.8
"""The same where moves are limited: what is found afresh hardly ever keeps to the limit, so that
the rest is for the bound, and for what the best plan would be."""
RULES_SHARE: Final = 0.65
"""Share of the time for models whose rules go beyond one device, where there are any."""


def solve_portfolio(
    instance: Instance,
    on_progress: OnProgress | None = None,
    stop: Stop = never,
    may: May = anything,
) -> Found:
    """The best plan for the request's objective; what cannot all be served is served in part.

    Args:
        instance: the question.
        on_progress: told how far it is, from time to time, in the thread that found something.
        stop: asked now and then whether to end with the best so far.
        may: what speaks against a packing: of those with least, the best is taken.
    """
    watch = Watch(instance, on_progress, stop)
    found = _solve(watch, may)
    return dataclasses.replace(found, compile_seconds=watch.compile_seconds)


def _solve(watch: Watch, may: May) -> Found:
    instance, objective = watch.instance, watch.objective
    if not objective.is_cost and objective is not Objective.MAX_GOODPUT:
        return _solve_scaled(watch, may)
    if _is_vast(instance):
        return _solve_vast(watch, may)
    if objective is Objective.MAX_GOODPUT:
        return _solve_goodput(watch, None, may)
    bound = bound_cost(instance)
    if bound.value is None:
        return _solve_goodput(watch, True, may)
    return _solve_cost(watch, bound, may)


def _solve_vast(watch: Watch, may: May) -> Found:
    # Where something runs it can be completed without the search, while that is compiled.
    searches = _compiled(watch, needed=not staying_items(watch.instance))
    from partitiond.planner.vast import solve_vast

    return solve_vast(watch, may, searches=searches)


def _compiled(watch: Watch, *, needed: bool = False) -> bool:
    """Whether the compiled search is to be used: not where the request does without and there is
    a plan. Where it was never compiled here, that is done first, while the clock stands still.

    Raises:
        CompilingStopped: somebody asked to end meanwhile, and there is no plan without.
    """
    from partitiond.planner.warm import is_warm, warm

    if not (needed or watch.instance.request.may_search):
        return False
    if is_warm():
        return True
    try:
        with watch.compiling() as tell:
            warm(tell)
    except CompilingStopped:
        if needed:
            raise
        return False
    return True


def _solve_scaled(watch: Watch, may: May) -> Found:
    """The largest common factor (`planner.scale`); the most goodput where there is none at all."""
    instance = watch.instance
    found = largest_factor(
        instance,
        _means(watch),
        stop=lambda: watch.stopped,
        tell=watch.found,
        proved=watch.proved,
        may=may,
    )
    if found.packing is None:
        served = _solve_goodput(watch, found.bound < 0, may)
        # A plan that misses least numbers is no plan of this objective, whatever is proven of it.
        if not found.optimal or served.packing.short_replicas():
            return served
        # Not everybody can have a replica: the smallest share is 0, and the rest is goodput.
        objective = instance.request.objective
        proof = dataclasses.replace(served, value=0.0, bound=0.0, best_value=None, seen=())
        return dataclasses.replace(
            proof, objective=objective, status=Status.OPTIMAL, first_fit=0.0, proven_impossible=None
        )
    return Found(
        packing=found.packing,
        objective=instance.request.objective,
        value=found.value,
        bound=found.bound,
        status=Status.OPTIMAL if found.optimal else Status.FEASIBLE,
        method=found.method,
        proven_impossible=None,
        first_fit=found.first_fit,
        best_value=found.best,
    )


def _means(watch: Watch) -> Means:
    """What is asked for a factor: by the size of the instance."""

    def stop() -> bool:
        return watch.stopped

    if not _is_large(watch.instance):
        return usual_means()
    _compiled(watch, needed=True)
    from partitiond.planner.searching import serve_everything
    from partitiond.planner.vast_scale import means

    if _is_vast(watch.instance):
        return means(stop)
    return usual_means(lambda instance, seconds: serve_everything(instance, seconds, stop))


def _is_large(instance: Instance) -> bool:
    return variable_count(instance, list(range(len(instance.group_of)))) > SMALL


def _is_vast(instance: Instance) -> bool:
    places = {id(g.held): sum(map(len, g.fits)) for g in instance.groups}
    return sum(places[id(g.held)] for g in instance.groups) > VAST


def _is_tiny(instance: Instance) -> bool:
    return variable_count(instance, list(range(len(instance.group_of)))) <= TINY


def _solve_cost(watch: Watch, bound: Bound, may: May) -> Found:
    instance, least = watch.instance, bound.value or 0.0
    guide = Guide(instance, bound)
    watch.proved(least)
    members, most_moves = _kept(watch, bound, by_cost=True)
    members += _greedy(watch, guide, bound)
    exact = None
    if not _is_large(instance):
        if not watch.done and not _is_tiny(instance) and not watch.stopped:
            members += _serving(_short_search(watch, _cheapest(members), by_cost=True))
        members += _with_rules(watch, _cheapest(members), Goal.COST)
        exact = None if watch.done else _exact_cost(watch, _cheapest(members))
        # With a plan in hand it would be no proof: devices dearer than that plan were left out.
        if exact is not None and not members and exact.status is Status.INFEASIBLE:
            return _solve_goodput(watch, True, may)
        members += _taken(watch, exact)
    by_columns = False
    ended = watch.done or watch.stopped
    if not ended and not (exact is not None and exact.status is Status.OPTIMAL):
        with _time_for_rules(watch):
            searched, by_columns = _search(watch, _cheapest(members), by_cost=True)
        members += _serving(searched)
        members += _with_rules(watch, _cheapest(members), Goal.COST, share=1.0)
    if not members:
        return _solve_goodput(watch, watch.impossible, may)
    priced_bound = _exact_with_moves(watch, members, least)
    best = min(members, key=lambda m: m.packing.cost())
    allowed = within_moves(instance, members, most_moves)
    seconds = min(instance.request.time_limit_seconds, watch.left() + 1)
    until = watch.finish()
    near = nearest_cost(instance, allowed, guide, seconds, may=may, stop=until)
    chosen = near.chosen
    others = [] if until() else without_each_kind(instance, guide, bound, chosen.packing)
    value, least = chosen.packing.cost(), watch.bound if watch.bound is not None else least
    first = [m for m in members if m.name == "first-fit decreasing"]
    return Found(
        packing=chosen.packing,
        objective=instance.request.objective,
        value=value,
        bound=least,
        status=Status.OPTIMAL if value <= least + EPSILON else Status.FEASIBLE,
        method=f"{chosen.name}; bound: {_bound_name(exact, least, by_columns=by_columns)}",
        proven_impossible=None,
        first_fit=first[0].packing.cost() if first else None,
        best_value=best.packing.cost(),
        priced_bound=priced_bound,
        seen=worth_telling(instance, near, best, may, until, cost=True),
        elsewhere=on_other_kinds(instance, [*members, *others], chosen.packing),
    )


def _greedy(watch: Watch, guide: Guide, bound: Bound) -> list[Member]:
    """What greedy packers and the baselines find that serves everything, in a small part of the
    time; nothing in an instance too large for that, or where what runs is proven as it is."""
    instance, most = watch.instance, MOST_STARTS
    if _is_large(instance):
        tenth = GREEDY_SHARE * instance.request.time_limit_seconds
        most = 0 if watch.done else min(MOST_STARTS, int(tenth / start_seconds(bound)))
    if most < 1:
        return []
    found = greedy_cost(instance, guide, bound, most, lambda: watch.stopped)
    if not watch.stopped:
        found += baselines(instance, bound.entries)
    members = _serving(found)
    _tell(watch, members)
    return members


def _exact_with_moves(watch: Watch, members: list[Member], least: float) -> float | None:
    """CP-SAT with the price of moves, on small instances; adds what it found to the members.

    Returns a bound on the cost with that price, where one was proven.
    """
    instance = watch.instance
    price, left = price_of_a_move(instance.request, instance.request.objective), watch.left()
    if not price or _is_large(instance) or left <= 0 or not staying_items(instance):
        return None
    here = [m for m in members if m.name.startswith(KEPT)]
    if any(priced_cost(instance, m.packing) <= least + EPSILON for m in here):
        return None
    exact = solve_exact(
        instance,
        Goal.COST,
        list(range(len(instance.group_of))),
        here[0].packing if here else None,
        deterministic_seconds=COST_SHARE * instance.request.time_limit_seconds,
        wall_seconds=float("inf") if watch.fixed else left,
        stop=lambda: watch.stopped,
        moves=Moves(
            math.floor(price * PRICE_SCALE),
            tuple((index, item) for index, item, _ in staying_of(instance)),
        ),
    )
    if exact.packing is not None:
        members.append(member(EXACT_WITH_MOVES, exact.packing))
    return exact.bound


def _kept(watch: Watch, bound: Bound, *, by_cost: bool) -> tuple[list[Member], int | None]:
    """What runs, repaired and improved, and how much a plan may move."""
    instance = watch.instance
    if not staying_items(instance):
        return [], None
    repaired = repair_start(instance, bound, by_cost=by_cost)
    if by_cost and repaired.lacking():
        return [], None
    most_moves = allowed_moves(instance, repaired)
    members = [member(KEPT, repaired.copy())]
    _tell(watch, members)
    limits = [] if watch.done else _move_limits(watch, bound, repaired, most_moves, by_cost=by_cost)
    if limits and not _compiled(watch):
        limits = []
    share = REPAIR_SHARE if most_moves is None else BUDGET_SHARE
    seconds = share * watch.left() / max(1, len(limits))
    for most in limits:
        better = improve_within(
            instance, repaired, bound, most_moves=most, seconds=seconds, by_cost=by_cost
        )
        members.append(member(f"{KEPT}, improved", better))
        _tell(watch, members)
    return members, most_moves


def _move_limits(
    watch: Watch, bound: Bound, repaired: Packing, most_moves: int | None, *, by_cost: bool
) -> list[int | None]:
    """How many replicas may leave their device in each search that starts from the repair.

    Where moves have a price, more of them than the bound leaves to be gained cannot pay; of fewer,
    a handful is tried first, because what one device costs a search that may move much saves it by
    moving much.
    """
    instance = watch.instance
    price = price_of_a_move(instance.request, watch.objective)
    if not price:
        return [most_moves] if _is_large(instance) or most_moves is not None else []
    if bound.value is None or _is_tiny(instance):
        return []
    if by_cost:
        worth = (repaired.cost() - bound.value) / price
    else:
        worth = (1 - repaired.goodput() / max(bound.value, EPSILON)) / price
    paying = min(math.floor(worth + EPSILON), len(instance.request.running))
    there = moves_of(instance, repaired)
    # None at first: what moves nothing has no outage either, which a better one may have.
    limits: list[int | None] = [there] if paying > 0 else []
    tried = FEW_MOVES
    while paying > 0:
        most = there + min(tried, paying)
        limits.append(most if most_moves is None else min(most, most_moves))
        if tried >= paying:
            break
        tried *= 2
    return limits


def _search(watch: Watch, best: Member | None, *, by_cost: bool) -> tuple[list[Member], bool]:
    """The compiled search; whether the column generation gave a better bound."""
    # It takes a second to load, and a minute to compile once: not for what is proven already.
    if not _compiled(watch, needed=best is None):
        return [], False
    from partitiond.planner.searching import search

    return search(watch, best, by_cost=by_cost)


def _short_search(watch: Watch, best: Member | None, *, by_cost: bool) -> list[Member]:
    if not _compiled(watch):
        return []
    from partitiond.planner.searching import short_search

    return short_search(watch, best, by_cost=by_cost)


def _with_rules(
    watch: Watch, best: Member | None, goal: Goal, *, share: float = RULES_SHARE
) -> list[Member]:
    """The search that moves models whose rules go beyond one device, where there are any."""
    instance = watch.instance
    if best is None or watch.done or not instance.ties.beyond_device or _is_tiny(instance):
        return []
    return [RuleSearch(watch, best.packing, goal).run(share * watch.left())]


@contextlib.contextmanager
def _time_for_rules(watch: Watch) -> Iterator[None]:
    """Ends what runs within it early enough for the search that knows rules beyond one device."""
    deadline = watch.deadline
    if watch.instance.ties.beyond_device:
        watch.deadline -= RULES_SHARE * watch.left()
    yield
    watch.deadline = deadline


def _serving(members: list[Member]) -> list[Member]:
    """Those that lack nothing, by whichever rule."""
    return [m for m in members if not m.packing.lacking()]


def _cheapest(members: list[Member]) -> Member | None:
    return min(members, key=lambda m: m.packing.cost(), default=None)


def _tell(watch: Watch, members: list[Member]) -> None:
    for one in members:
        short = one.packing.short_replicas()
        if watch.objective.is_cost or short == 0:
            cost = watch.objective.is_cost
            watch.found(one.packing.cost() if cost else one.packing.goodput(), one.name)


def _taken(watch: Watch, exact: Exact | None) -> list[Member]:
    """What CP-SAT found and proved."""
    if exact is None:
        return []
    members = [] if exact.packing is None else [member("exact (CP-SAT)", exact.packing)]
    if exact.bound is not None:
        watch.proved(exact.bound)
    _tell(watch, members)
    return members


def _bound_name(exact: Exact | None, bound: float | None, *, by_columns: bool) -> str:
    if exact is not None and exact.bound is not None and bound is not None:
        by_exact = abs(exact.bound - bound) <= EPSILON * max(1.0, abs(bound))
        if by_exact or exact.status is Status.OPTIMAL:
            return "exact (CP-SAT)"
    return "columns" if by_columns else "weighted resources"


def _exact_cost(watch: Watch, best: Member | None) -> Exact | None:
    instance, devices = watch.instance, list[int]()
    for group in instance.groups:
        most = len(group.bins)
        if best is not None and group.price > 0 and not instance.ties.by_host:
            most = min(most, best.packing.cost_units() // group.price)
        devices.extend(group.bins[:most])
    hint = best.packing if best is not None else None
    return _exact(watch, Goal.COST, devices, hint)


def _exact(
    watch: Watch,
    goal: Goal,
    devices: list[int],
    hint: Packing | None,
    *,
    stage: Stage | None = None,
    share: float = 1.0,
) -> Exact | None:
    instance, left = watch.instance, watch.left()
    if left <= 0:
        return None
    seconds = share * COST_SHARE * instance.request.time_limit_seconds
    wall = float("inf") if watch.fixed else share * (EXACT_SHARE if hint else HOPE_SHARE) * left
    return solve_exact(
        instance,
        goal,
        devices,
        hint,
        deterministic_seconds=seconds,
        wall_seconds=wall,
        stop=lambda: watch.stopped,
        stage=stage,
    )


def _solve_goodput(watch: Watch, proven_impossible: bool | None, may: May) -> Found:
    instance = watch.instance
    watch.restart(Objective.MAX_GOODPUT)
    bound = bound_goodput(instance)
    guide = Guide(instance, bound)
    if bound.value is not None:
        watch.proved(bound.value)
    classes = classes_of(instance)
    if len(classes) > 1 and any(need.rated for need in instance.needs):
        watch.proved(math.fsum(n.worth * n.rate for c in classes for n in c.needs) / RATE_SCALE)
    by_class: dict[int, float] = {}
    members, most_moves = _kept(watch, bound, by_cost=False)
    exact = None
    if not _is_large(instance):
        members += greedy_goodput(instance, guide, bound, lambda: watch.stopped)
        members += [] if watch.stopped else baselines(instance, bound.entries)
        _tell(watch, members)
        members += _with_rules(watch, max(members, key=goodput_key), Goal.GOODPUT)
        if len(classes) > 1 and not watch.done:
            exact = exact_classes(
                classes,
                members,
                by_class,
                lambda hint, stage, share: _exact(
                    watch,
                    Goal.GOODPUT,
                    list(range(len(instance.group_of))),
                    hint,
                    stage=stage,
                    share=share,
                ),
            )
            _tell(watch, members)
        elif not watch.done:
            exact = _exact_goodput(watch, members)
        members += _taken(watch, exact)
    by_columns = False
    ended = watch.done or (watch.stopped and members)
    if not ended and not (exact is not None and exact.status is Status.OPTIMAL):
        best = max(members, key=goodput_key, default=None)
        with _time_for_rules(watch):
            searched, by_columns = _search(watch, best, by_cost=False)
        members += searched
        best = max(members, key=goodput_key, default=None)
        members += _with_rules(watch, best, Goal.GOODPUT, share=1.0)
    found = _best_goodput(
        watch,
        guide,
        bound,
        members,
        most_moves=most_moves,
        exact=exact,
        proven_impossible=proven_impossible,
        by_columns=by_columns,
        may=may,
    )
    return found if len(classes) < 2 else class_by_class(watch, classes, members, found, by_class)


def _exact_goodput(watch: Watch, members: list[Member]) -> Exact | None:
    """CP-SAT from the best plan, after a short search where that is at hand."""
    if not _is_tiny(watch.instance) and not watch.stopped:
        best = max(members, key=goodput_key)
        members += _short_search(watch, best, by_cost=False)
    best = max(members, key=goodput_key)
    return _exact(watch, Goal.GOODPUT, list(range(len(watch.instance.group_of))), best.packing)


def _best_goodput(
    watch: Watch,
    guide: Guide,
    bound: Bound,
    members: list[Member],
    *,
    most_moves: int | None,
    exact: Exact | None,
    proven_impossible: bool | None,
    by_columns: bool,
    may: May,
) -> Found:
    instance, most = watch.instance, watch.bound
    best = max(members, key=goodput_key)
    allowed = within_moves(instance, members, most_moves)
    until = watch.finish()
    near = nearest_goodput(instance, allowed, guide, may=may, stop=until)
    chosen = near.chosen
    value = chosen.packing.goodput()
    proven = most is not None and best.packing.goodput() >= most * (1 - EPSILON)
    proven = proven and best.packing.short_replicas() == 0
    optimal = (exact is not None and exact.status is Status.OPTIMAL) or proven
    optimal = optimal and value >= best.packing.goodput() * (1 - EPSILON)
    if chosen.packing.short_replicas() > best.packing.short_replicas():
        # A budget of moves left no plan with as many of the least replicas. It may give more than
        # any plan that has them, which is what an exact solver proves.
        best, exact, most, optimal = chosen, None, bound.value, False
    first = [m for m in members if m.name == "first-fit decreasing"]
    return Found(
        packing=chosen.packing,
        objective=Objective.MAX_GOODPUT,
        value=value,
        bound=math.inf if most is None else most,
        status=Status.OPTIMAL if optimal else Status.FEASIBLE,
        method=f"{chosen.name}; bound: {_bound_name(exact, most, by_columns=by_columns)}",
        proven_impossible=proven_impossible,
        first_fit=first[0].packing.goodput() if first else None,
        best_value=best.packing.goodput(),
        seen=worth_telling(instance, near, best, may, until, cost=False),
    )
