"""Finds the most valuable set of replicas that one device can hold, exactly.

Branch and bound over the entries of one way to run a device. Multipliers p on the device's
resources (the duals of its linear relaxation) give each entry a loss p.a - v and every set the
bound p.capacity: a set loses what its entries lose, plus p.(what it leaves free). Entries are tried
in order of loss, so the first entry whose loss leaves no room above the best set so far ends a
branch. If the nodes run out, the bound of the rest is returned; it holds for any p.
"""

import numpy as np

from partitiond.planner.kernels import kernel, plain
from partitiond.planner.kernels.branch import (
    SLACK,
    BranchState,
    DeviceLimits,
    SortedEntries,
    branch,
    fits,
)
from partitiond.planner.kernels.duals import multipliers
from partitiond.planner.model.sites import Floats, Ints

UNLIMITED = 1 << 59
"""Capacities from this value on do not limit."""


@kernel
def price_way(
    value: Floats, most: Ints, place: DeviceLimits, duals: Floats, floor: float, node_limit: int
) -> tuple[Ints, float, float]:
    """Return the most valuable set of a device run one way, if it is worth more than `floor`.

    Args:
        value: worth of one copy of each entry; entries worth nothing are left out.
        most: copies allowed of each entry.
        place: the limits of the device.
        duals: (R + 2,) multipliers of the previous call, all 0 at first. If they show that no set
            is worth more, the search is skipped; otherwise they are filled anew.
        floor: sets worth no more than this are not searched for.
        node_limit: limit on the branches.

    Returns:
        Chosen positions with repetitions, empty if no set is worth more; their value, or 0;
        and an upper bound on the value of any set.
    """
    none = np.empty(0, np.int64)
    if duals.sum() > 0.0:
        bound = _quick(value, most, place, duals)
        if bound <= floor:
            return none, 0.0, bound + SLACK * (1.0 + abs(bound))
    fit = _useful(value, most, place)
    copies = np.minimum(most[fit], place.max_items)
    share = _shares(place, fit)
    duals[:] = multipliers(value[fit], share, copies)
    bound = _quick(value, most, place, duals)
    if bound <= floor:
        return none, 0.0, bound + SLACK * (1.0 + abs(bound))
    choices = _choices(value, duals, share, fit, copies)
    depth = place.max_items + 1
    work = BranchState(
        at=np.zeros(depth, np.int64),
        chosen=np.zeros(depth, np.int64),
        copy=np.zeros(depth, np.int64),
        left=np.zeros((depth, place.use.shape[1]), np.int64),
        load=np.zeros(depth, np.int64),
        code=np.zeros(depth, np.int64),
        total=np.zeros(depth),
        rest=np.zeros(depth),
        found=np.zeros(depth, np.int64),
    )
    work.left[0] = place.capacity
    size, best, bound = branch(place, choices, work, floor, node_limit)
    return choices.fit[work.found[:size]], best if size else 0.0, bound + SLACK * (1.0 + abs(bound))


@kernel
def _quick(value: Floats, most: Ints, place: DeviceLimits, duals: Floats) -> float:
    """Return an upper bound on any set's value, which any multipliers of the limits give."""
    share = _shares(place, np.arange(len(value)))
    total = duals.sum()
    for i in range(len(value)):
        if value[i] <= 0.0 or not fits(place, i):
            continue
        rest = value[i]
        for r in range(len(duals)):
            rest -= duals[r] * share[i, r]
        if rest > 0.0:
            total += rest * min(most[i], place.max_items)
    return float(total)


@kernel
def _useful(value: Floats, most: Ints, place: DeviceLimits) -> Ints:
    """Return valuable entries that fit, without entries that other entries beat in everything.

    An entry is left out if enough copies of others are worth at least as much and take no more: in
    any set one of these copies can replace it. The models of those others may avoid no model.
    """
    n = len(value)
    order = np.argsort(-value)
    kept, front = np.empty(n, np.int64), np.empty(n, np.int64)
    size, front_size = 0, 0
    for k in range(n):
        i = order[k]
        if value[i] <= 0.0:
            break
        if most[i] < 1 or not fits(place, i):
            continue
        if _outdone(place, most, front[:front_size], i):
            continue
        kept[size] = i
        size += 1
        if not place.avoid[place.model[i]].any():
            front[front_size] = i
            front_size += 1
    return kept[:size].copy()


@plain
def _outdone(place: DeviceLimits, most: Ints, front: Ints, entry: int) -> bool:
    """Return whether enough copies of entries in `front`, all worth at least as much, take no
    more.
    """
    better = 0
    for j in front:
        worse = place.busy[j] > place.busy[entry]
        worse = worse or (len(place.table) > 0 and place.code[j] != place.code[entry])
        for r in range(len(place.capacity)):
            if place.use[j, r] > place.use[entry, r]:
                worse = True
                break
        if not worse:
            better += most[j]
            if better >= place.max_items:
                return True
    return False


@kernel
def _choices(value: Floats, price: Floats, share: Floats, fit: Ints, copies: Ints) -> SortedEntries:
    """Sort the useful entries by loss at the prices of the limits."""
    n = len(fit)
    worth = np.zeros(n)
    for i in range(n):
        for r in range(len(price)):
            worth[i] += price[r] * share[i, r]
    order = np.argsort(worth - value[fit])
    sorted_fit, worth, sorted_copies = fit[order], worth[order], copies[order]
    values = value[sorted_fit]
    loss = worth - values
    gain = np.zeros(n + 1)
    for k in range(n - 1, -1, -1):
        gain[k] = gain[k + 1] + sorted_copies[k] * max(0.0, -loss[k])
    return SortedEntries(sorted_fit, values, sorted_copies, loss, worth, gain, price.sum())


@kernel
def _shares(place: DeviceLimits, fit: Ints) -> Floats:
    """Return the shares of the device that each entry takes, by resource, then load, then number.

    The load of n replicas is at most busy_limit[n], which lies below a line I - s n, so the sum of
    (busy + s) is at most I.
    """
    resources = place.use.shape[1]
    share = np.zeros((len(fit), resources + 2))
    if place.max_items < 1:
        return share
    limit, slope, level = place.busy_limit, 0.0, 0.0
    if place.max_items > 1:
        slope = max(0.0, (limit[1] - limit[place.max_items]) / (place.max_items - 1))
    for n in range(1, place.max_items + 1):
        level = max(level, limit[n] + slope * n)
    for i in range(len(fit)):
        j = fit[i]
        for r in range(resources):
            if place.capacity[r] < UNLIMITED and place.use[j, r] > 0:
                share[i, r] = place.use[j, r] / place.capacity[r]
        if 0.0 < level < UNLIMITED:
            share[i, resources] = (place.busy[j] + slope) / level
        share[i, resources + 1] = 1.0 / place.max_items
    return share
