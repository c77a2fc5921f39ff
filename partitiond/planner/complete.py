"""Plans without compiled code: what is missing is added, and devices are emptied.

They start from nothing or from what runs. From nothing, several orders of the models and several
levels at which devices are opened are tried.
"""

import itertools
import math
import random
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Final

import numpy as np

from partitiond.planner.adding import Adding
from partitiond.planner.members import EPSILON, Member, drop_surplus, fullness, member, rank
from partitiond.planner.packing import Packing
from partitiond.planner.prices import Prices
from partitiond.planner.progress import Stop, never
from partitiond.planner.rules import may_leave, missing
from partitiond.planner.sites import Floats, Ints
from partitiond.planner.types import Instance, Need

NAME: Final = "greedy by prices"
PASSES: Final = 3
"""A replica that has its device run at a higher level may leave another model short: it gets its
turn again."""
SHAKES: Final = 3
"""Orders of the models that are tried at each level."""
NOISE: Final = 0.3
MOST_RUINED: Final = 3
"""Devices that are emptied at once."""
MOST_STARTS: Final = 12
FEW_STARTS: Final = 3
"""The same where they take longer."""
TIGHTENED: Final = 12
"""Plans from nothing, and what became of them, up to which one more is tightened."""
QUICK: Final = 500
"""Models times devices up to which a plan is tightened in a fifth of a second."""
PATIENCE: Final = 40
"""Times that nothing better was found, after which no more is tried."""
MUCH: Final = 0.3
"""Devices that are run a way at the prices, from which on a start opens devices that way alone."""


def complete(adding: Adding, order: Iterable[Need], stop: Stop = never) -> None:
    """Add what models lack until nothing is missing, or what is missing fits nowhere.

    Models whose rules go beyond one device are first: what comes later keeps their rules.
    """
    ties, needs = adding.instance.ties, [*order]
    needs.sort(key=lambda n: (n.model not in ties.beyond_device, n.model not in ties.near))
    for _ in range(PASSES):
        changed, packing = False, adding.packing
        for need in [n for n in needs if missing(packing, n) is not None]:
            while missing(packing, need) is not None and not stop() and adding.one(need):
                changed = True
        packing.settle()  # devices may have been opened for more than there was
        if not changed:
            return


def most_goodput(adding: Adding, order: Iterable[Need], stop: Stop = never) -> None:
    """Add least numbers of replicas first, then what adds most weighted requests/s per worth."""
    packing, needs = adding.packing, [*order]
    for need in needs:
        while packing.counts[need.model] < need.min_replicas and not stop():
            if not adding.one(need):
                break
    rated = any(need.rated for need in needs)
    open_needs = {need.model: need for need in needs if need.rated == rated}
    merits = {model: adding.merit(need) for model, need in open_needs.items()}
    while merits and not stop():
        model = max(merits, key=lambda m: (merits[m], -m))
        need = open_needs[model]
        if merits[model] <= 0 or not adding.one(need):
            del merits[model]
        else:
            merits[model] = adding.merit(need)
    tied = adding.instance.ties.beyond_device
    complete(adding, [need for need in needs if need.model in tied], stop)


def in_order(adding: Adding, rng: random.Random | None = None) -> list[Need]:
    """Models by the worth of their cheapest replica and of all they need, the largest first."""

    def size(need: Need) -> float:
        shaken = 1.0 if rng is None else 1 + NOISE * rng.uniform(-1, 1)
        return -adding.size(need) * shaken

    return sorted(adding.instance.needs, key=lambda need: (size(need), need.model))


def tightened(
    packing: Packing,
    worth: Floats,
    *,
    by_cost: bool,
    seed: int,
    may: Callable[[Packing], bool] = lambda _: True,
    stop: Stop = never,
) -> Packing:
    """A packing that is as good or better: a few devices at a time are emptied, the emptiest more
    often, and what is missing then is placed anew (ruin and recreate, Schrimpf et al. 2000).

    Args:
        packing: it is left as it is.
        worth: (E,) what one replica of each site's entry takes; it is shaken each time.
        by_cost: whether all that is wanted stays served and less cost is better, or more goodput.
        seed: of all random choices.
        may: whether a packing may be the answer.
        stop: asked whether to end with what was found.
    """
    rng, noise = random.Random(f"tight-{seed}"), np.random.default_rng(seed)  # noqa: S311
    found, idle, adding = packing, 0, Adding(packing, worth)
    while idle < PATIENCE and not stop():
        trial = found.copy()
        ranked = sorted(found.used(), key=lambda i: fullness(found, i) * rng.uniform(0.5, 1.0))
        for index in ranked[: rng.randint(1, MOST_RUINED)]:
            for item in [*trial.loads[index].items]:
                if may_leave(trial, index, item):
                    trial.remove(index, item)
        shaken = worth * noise.uniform(1 - NOISE, 1 + NOISE, len(worth))
        adding.packing, adding.worth = trial, shaken
        order = in_order(adding, rng)
        if by_cost:
            complete(adding, order, stop)
        else:
            most_goodput(adding, order, stop)
        drop_surplus(trial, rated_only=True)
        idle += 1
        before, after = rank(found, by_cost), rank(trial, by_cost)
        if after <= before and may(trial):
            idle = 0 if after < before else idle
            found = trial
    return found


def from_nothing(
    instance: Instance,
    prices: Prices,
    *,
    by_cost: bool,
    devices: Collection[int] | None = None,
    stop: Stop = never,
) -> Iterator[Member]:
    """One plan from each start, those by cost only where they lack nothing; one even after a stop.

    Args:
        instance: the question.
        prices: of what a replica takes, and the ways to run devices that are used at these.
        by_cost: whether everything is to be served, or goodput counts.
        devices: that may be used; None for all.
        stop: asked whether to end.
    """
    for shake, steps in itertools.product(range(SHAKES), _ways(prices.used)):
        adding = Adding(Packing(instance), prices.entry, steps, devices)
        rng = random.Random(f"{instance.request.seed}-{shake}")  # noqa: S311
        order = in_order(adding, rng if shake else None)
        packing = adding.packing
        if not by_cost:
            most_goodput(adding, order)
            yield member(NAME, packing)
        else:
            complete(adding, order, stop)
            if not packing.lacking():
                drop_surplus(packing)
                yield member(NAME, packing)
        if stop():
            return


def _ways(used: Floats) -> list[Ints]:
    """(Q,) the level at which a device is opened as each site, -1 where none is, for each start.

    All sites at the level that is used most, each of the ways that are used much, and those.
    """
    middle = used.shape[1] // 2
    most = np.where(used.max(axis=1) > 0, used.argmax(axis=1), middle)
    found = [most]
    much = [(int(q), int(at)) for q, at in np.argwhere(used >= MUCH)]
    for site, at in sorted(much, key=lambda way: -used[way]):
        found.append(np.full(len(used), -1))
        found[-1][site] = at
    if len(much) > 1:
        found.append(np.where(used.max(axis=1) >= MUCH, most, -1))
    return found


def greedy(
    instance: Instance, prices: Prices, *, by_cost: bool, least: float | None, stop: Stop = never
) -> list[Member]:
    """The plans from nothing, and what the first of them become, until one reaches a bound.

    After a stop there is one plan of the most goodput all the same.
    """
    found, seed = [], instance.request.seed
    quick = len(instance.needs) * len(instance.group_of) <= QUICK
    starts = from_nothing(instance, prices, by_cost=by_cost, stop=stop)
    for one in itertools.islice(starts, MOST_STARTS if quick else FEW_STARTS):
        found.append(one)
        if by_cost and quick and len(found) <= TIGHTENED and not stop():
            better = tightened(
                one.packing, prices.entry, by_cost=by_cost, seed=seed + len(found), stop=stop
            )
            found.append(member(NAME, better))
        value = found[-1].packing.cost() if by_cost else -found[-1].packing.goodput()
        aim = math.inf if least is None else least if by_cost else -least
        if value <= aim + EPSILON < math.inf:
            break
    return found
