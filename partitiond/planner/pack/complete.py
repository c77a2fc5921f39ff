"""Makes plans without compiled code: adds what is missing, and empties devices.

The plans start from nothing or from what runs. From nothing, several orders of the models and
several levels at which devices are opened are tried.
"""

import itertools
import math
import random
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Final

import numpy as np

from partitiond.planner.bounds.prices import Prices
from partitiond.planner.model.sites import Floats, Ints
from partitiond.planner.model.types import Instance, Need
from partitiond.planner.pack.adding import Adding
from partitiond.planner.pack.members import (
    EPSILON,
    Member,
    drop_surplus,
    fullness,
    member,
    rank,
)
from partitiond.planner.pack.packing import Packing, may_leave, missing
from partitiond.planner.stop import Stop, never

NAME: Final = "greedy by prices"
PASSES: Final = 3
"""A replica that raises its device's level may leave another model short; passes are repeated so
that this model is served again. Chosen, not measured."""
SHAKES: Final = 3
"""Orders of the models that are tried at each level. Chosen, not measured."""
NOISE: Final = 0.3
MOST_RUINED: Final = 3
"""Noise of prices and orders; largest number of devices that are emptied at once. Both chosen."""
MOST_STARTS: Final = 12
FEW_STARTS: Final = 3
"""Number of starts, and number if they take longer. Both are chosen, not measured."""
TIGHTENED: Final = 12
"""Limit on plans (from nothing, and tightened) up to which one more is tightened. Chosen."""
QUICK: Final = 500
"""Models times devices up to which a plan is tightened in a fifth of a second."""
PATIENCE: Final = 40
"""Attempts without improvement after which the search ends. Chosen, not measured."""
MUCH: Final = 0.3
"""Devices run one way at the prices, from which on a start opens devices only that way. Chosen."""


def complete(adding: Adding, order: Iterable[Need], stop: Stop = never) -> None:
    """Add what models lack until nothing is missing, or what is missing fits nowhere.

    Models whose rules go beyond one device come first; replicas added later keep those rules.
    """
    ties, needs = adding.instance.ties, [*order]
    needs.sort(key=lambda n: (n.model not in ties.beyond_device, n.model not in ties.near))
    for _ in range(PASSES):
        changed, packing = False, adding.packing
        for need in [n for n in needs if missing(packing, n) is not None]:
            while missing(packing, need) is not None and not stop() and adding.one(need):
                changed = True
        packing.settle()  # a device may have been opened at a higher level than it needs
        if not changed:
            return


def most_goodput(adding: Adding, order: Iterable[Need], stop: Stop = never) -> None:
    """Add the least numbers of replicas, then what adds most weighted requests/s per worth."""
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
    """Sort models by the worth of their cheapest replica and of all they need, largest first."""

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
    """Return a packing that is as good or better: empty a few devices at a time, the emptiest more
    often, and place anew what is missing then (ruin and recreate, Schrimpf et al. 2000).

    Args:
        packing: the start; it is not changed.
        worth: (E,) price of one replica of each entry; perturbed in each attempt.
        by_cost: True to reduce the cost and keep all demand served; False to increase goodput.
        seed: seed of all random choices.
        may: whether a packing is allowed as the answer.
        stop: called periodically; True ends with the best packing so far.
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
    """Yield one plan from each start, by cost only those that lack nothing; one even after a stop.

    Args:
        instance: the problem instance.
        prices: prices of replicas, and the ways to run devices that are used at these prices.
        by_cost: True to serve all demand; False to maximise goodput.
        devices: devices that may be used; None for all.
        stop: called periodically; True ends the search.
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
    """Return for each start the (Q,) level at which a device is opened as each site; -1 for not.

    The starts are all sites at their most used level, each much used way, and those ways together.
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
    """Return plans from nothing, the first of them also tightened, until one reaches a bound.

    For goodput there is one plan even after a stop.
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
