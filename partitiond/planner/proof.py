"""Proves a plan for the most goodput the best, on instances where that is near at hand.

At the prices of the column generation's best bound, every plan falls short of the bound by what
its models' covering sets lose against the best ones, and its devices against the best sets for
them. So a plan better than the one we have uses only covering sets that lose less than the
distance of the two. Where these are few, all of them are listed (as routes are in Baldacci et al.
2008), and every choice of one for each model that loses little enough is packed, or cannot be.
"""

import math
from typing import Final

import numpy as np

from partitiond.core.plan import Status
from partitiond.planner.arrays import NO_LIMIT, Floats, Ints, Problem
from partitiond.planner.columns import generate
from partitiond.planner.exact import Exact
from partitiond.planner.improve import Improver
from partitiond.planner.instance import RATE_SCALE, Instance, Need
from partitiond.planner.kernels.combine import FOUND, GAVE_UP, NONE, Choices, Space, combine
from partitiond.planner.kernels.state import State
from partitiond.planner.neighbourhood import empty_state, to_packing
from partitiond.planner.progress import Watch, goodput_unit

COARSE: Final = 5e-5
"""Plans better by less than this share count as equal, as for every proof of goodput."""
ROUNDING: Final = 1e-7
MOST_SETS: Final = 400
"""Covering sets of one model; more of them, and trying all is hopeless."""
MOST_TRIED: Final = 20_000
"""Sets looked at for one model until it is given up."""
MOST_HELD: Final = 50 * MOST_TRIED
"""Replicas in the sets of one model that are kept in memory (8 bytes each): a demand of thousands
of replicas would else fill gigabytes before `MOST_TRIED` ends it."""
MOST_MODELS: Final = 40
MOST_DEVICES: Final = 16
"""Beyond, the distance of bound and plan has always left too many combinations."""
STEPS: Final = 20_000_000
"""Choices, and placements, that are tried in a second."""
TRY_SHARE: Final = 0.4
"""Share of the time that is left for one round of trying all."""


def can_prove(instance: Instance) -> bool:
    """Whether it is small, and devices are tied by nothing but the models' demands."""
    rated = any(need.rated for need in instance.needs)
    few = len(instance.needs) <= MOST_MODELS and len(instance.group_of) <= MOST_DEVICES
    return few and rated and not instance.pools and not instance.ties.beyond_device


def prove(watch: Watch, improver: Improver, deadline: float) -> Exact | None:
    """The best plan with its proof; None where there is none at hand.

    Args:
        watch: told of bounds.
        improver: a search for goodput that has found a plan.
        deadline: for the column generation, in `time.monotonic()` seconds.
    """
    instance, problem = watch.instance, improver.problem
    packing = improver.best()
    if packing.short_replicas():
        return None
    found = generate(problem, kind="goodput", deadline=deadline, seed=instance.request.seed)
    watch.proved(found.bound)
    price = np.maximum(found.entry_price, 0.0)
    best = _best_of_devices(problem, price)
    top = limit = found.bound * (1 + ROUNDING)
    step = max(goodput_unit(instance), COARSE * packing.goodput())
    tries = 0
    while not watch.stopped:
        value = packing.goodput()
        least = value + step * (1 - ROUNDING)
        if limit < least:
            return Exact(Status.OPTIMAL, packing, value)
        # From the top down: where little may be lost all is tried in no time, and mostly the best
        # plan is there already. Values are whole steps, so only those are asked for.
        target = max(least, (math.floor(top / step) - tries) * step - ROUNDING * value)
        tries = 2 * tries + 1 if step > goodput_unit(instance) else tries + 1
        chooser = _choices(problem, price, best, target)
        if chooser is None:
            return None
        choices, room = chooser
        state = empty_state(improver.data)
        # Below 0 the prices alone are the proof.
        outcome = NONE if room < 0 else _combine(watch, improver, choices, room, state)
        if outcome == GAVE_UP:
            return None
        if outcome == FOUND:
            packing = to_packing(problem, state)
            watch.found(packing.goodput(), "all combinations")
            if packing.goodput() <= value:
                return None  # better by less than rounding
        else:
            limit = target * (1 - ROUNDING)
            watch.proved(target)
    return None


def _best_of_devices(problem: Problem, price: Floats) -> Floats:
    """(D,) what each device can hold at most, at the prices."""
    # Loads compiled code, which the checks above may spare.
    from partitiond.planner.kernels.pricing import best_pattern

    best = np.zeros(len(problem.group_count))
    most = np.full(len(price), 1 << 20, dtype=np.int64)
    for place, group in enumerate(problem.place_group):
        best[group] = max(best[group], best_pattern(problem, place, price, most).bound)
    return np.asarray(best[problem.device_group] * (1 + ROUNDING))


def _capacities(problem: Problem) -> Ints:
    """(D, R) the most of each resource that a device has, however it is run."""
    limited = np.minimum(problem.capacity, NO_LIMIT >> 20)
    groups = np.zeros((len(problem.group_count), limited.shape[1]), dtype=np.int64)
    np.maximum.at(groups, problem.place_group, limited)
    return np.asarray(groups[problem.device_group])


def _choices(
    problem: Problem, price: Floats, best: Floats, least: float
) -> tuple[Choices, float] | None:
    """For every model the covering sets of plans worth `least`, and what they may lose together.

    None where they are too many.
    """
    wide = _sets(problem, price)
    if wide is None:
        return None
    # With no limit, so that the best of each model is among them.
    bests = [max(worth for worth, _, _ in mine) for mine in wide]
    room = math.fsum(bests) + float(best.sum()) - least
    allowed = max(0.0, room)
    sets = [
        [(most - w, p, entries) for w, p, entries in mine if w >= most - allowed]
        for most, mine in zip(bests, wide, strict=True)
    ]
    if max(len(mine) for mine in sets) > MOST_SETS:
        return None
    sets.sort(key=len)
    flat = [one for mine in sets for one in mine]
    choices = Choices(
        start=np.cumsum([0, *(len(mine) for mine in sets)], dtype=np.int64),
        loss=np.array([loss for loss, _, _ in flat]),
        price=np.array([p for _, p, _ in flat]),
        first=np.cumsum([0, *(len(entries) for _, _, entries in flat)], dtype=np.int64),
        entries=np.array([e for _, _, entries in flat for e in entries], dtype=np.int64),
        low=_from_here([min(p for _, p, _ in mine) for mine in sets]),
        high=_from_here([max(p for _, p, _ in mine) for mine in sets]),
        rank=_ranks(price),
        value=price,
        best=best,
        most=_capacities(problem),
        widest=int(problem.max_items.max()),
        alike=int(len(np.unique(problem.device_group)) == 1),
    )
    return choices, room


def _from_here(values: list[float]) -> Floats:
    """Sums of the k-th and later values, and 0 behind the last."""
    return np.array([math.fsum(values[k:]) for k in range(len(values) + 1)])


def _ranks(price: Floats) -> Ints:
    """The dearest first."""
    rank = np.empty(len(price), dtype=np.int64)
    rank[np.argsort(-price, kind="stable")] = np.arange(len(price))
    return rank


def _sets(
    problem: Problem, price: Floats
) -> list[list[tuple[float, float, tuple[int, ...]]]] | None:
    """Worth beyond the price, price and entries of the covering sets of each model."""
    counted = bool(problem.need_rated.any())
    found = []
    for m, need in enumerate(problem.instance.needs):
        weight = need.weight if need.rated == counted else 0.0
        mine = _sets_of(problem, need, weight, np.flatnonzero(problem.entry_model == m), price)
        if mine is None:
            return None
        found.append(mine)
    return found


def _sets_of(
    problem: Problem, need: Need, weight: float, mine: Ints, price: Floats
) -> list[tuple[float, float, tuple[int, ...]]] | None:
    """One model's sets: none from which a replica could be left out."""
    found: list[tuple[float, float, tuple[int, ...]]] = []
    target = need.rate if weight > 0 else 0
    stack: list[tuple[int, int, float, tuple[int, ...]]] = [(0, 0, 0.0, ())]
    held = 0
    while stack:
        if len(found) > MOST_TRIED or held > MOST_HELD:
            return None
        first, rate, cost, chosen = stack.pop()
        held -= len(chosen)
        enough = rate >= target and len(chosen) >= need.min_replicas
        if len(chosen) >= need.min_replicas:
            found.append((weight * min(rate, target) / RATE_SCALE - cost, cost, chosen))
            held += len(chosen)
        if enough or len(chosen) >= need.max_replicas:
            continue
        for k in range(first, len(mine)):
            e = int(mine[k])
            more = rate + int(problem.entry_rate[e])
            stack.append((k, more, cost + float(price[e]), (*chosen, e)))
        held += (len(mine) - first) * (len(chosen) + 1)
    return found or None


def _combine(watch: Watch, improver: Improver, choices: Choices, room: float, state: State) -> int:
    """All combinations, as long as there is time."""
    models = len(choices.start) - 1
    longest = [0]
    for k in range(models):
        mine = range(choices.start[k], choices.start[k + 1])
        longest.append(max(int(choices.first[s + 1] - choices.first[s]) for s in mine))
    most = sum(longest)
    steps = np.full(2, STEPS if watch.fixed else int(STEPS * max(0.0, TRY_SHARE * watch.left())))
    outcome: int = combine(
        improver.data,
        state,
        choices,
        float(choices.best.sum()),
        room * (1 + ROUNDING) + ROUNDING,
        np.zeros(models + 1, dtype=np.int64),
        np.zeros(most + 1, dtype=np.int64),
        _space(most + len(choices.best) + 1, choices.most.shape[1]),
        steps.astype(np.int64),
    )
    return outcome


def _space(size: int, resources: int) -> Space:
    return Space(
        spot=np.zeros(size, dtype=np.int64),
        item=np.zeros(size, dtype=np.int64),
        worth=np.zeros(size),
        waste=np.zeros(size),
        spare=np.zeros(resources, dtype=np.int64),
    )
