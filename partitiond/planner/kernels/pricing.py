"""The most valuable set of replicas that one device can hold, exactly.

Branch and bound over the entries of one place. Multipliers p on the device's resources (the
duals of its linear relaxation) give each entry a loss p.a - v and every set the bound
p.capacity: a set loses what its entries lose and p.(what it leaves free). Entries are tried in
order of loss, so the first whose loss no longer leaves room above the best set so far ends a
branch. Where the nodes run out, the bound of what is left is returned; it holds for any p.
"""

import dataclasses
from typing import Final

import numpy as np

from partitiond.planner.arrays import NO_LIMIT, Floats, Ints, Problem
from partitiond.planner.kernels import kernel, plain
from partitiond.planner.kernels.branch import SLACK, Choices, Place, Room, Work, branch, fits
from partitiond.planner.kernels.duals import multipliers

NODE_LIMIT: Final = 2_000_000
UNLIMITED = NO_LIMIT // 2
"""Capacities from here on do not limit."""


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Pattern:
    """A set of replicas on one device.

    Attributes:
        place: the way the device is run.
        entries, counts: what is on it.
        value: of it all, at the values asked for.
        bound: no set of this place is worth more; equal to `value` but for rounding where the
            nodes sufficed.
    """

    place: int
    entries: Ints
    counts: Ints
    value: float
    bound: float


def place_of(problem: Problem, place: int) -> Place:
    """The slices of one place."""
    mine = slice(int(problem.place_start[place]), int(problem.place_start[place + 1]))
    offset, size = int(problem.geometry[place]), int(problem.geometry_size[place])
    return Place(
        use=problem.entry_use[mine],
        busy=problem.entry_busy[mine],
        code=problem.entry_code[mine],
        model=problem.entry_model[mine],
        capacity=problem.capacity[place],
        max_items=int(problem.max_items[place]),
        busy_limit=problem.busy_limit[place],
        table=problem.tables[offset : offset + size] if offset >= 0 else problem.tables[:0],
        avoid=problem.avoid,
    )


def best_pattern(
    problem: Problem, place: int, value: Floats, most: Ints, *, node_limit: int = NODE_LIMIT
) -> Pattern:
    """The most valuable set of entries that one device run as `place` can hold.

    Args:
        problem: the instance as arrays.
        place: the way to run the device.
        value: (E,) worth of one copy of each entry; those worth nothing are left out.
        most: (E,) copies allowed of each entry on one device.
        node_limit: branches to look at; then `bound` may exceed `value`.
    """
    start, end = int(problem.place_start[place]), int(problem.place_start[place + 1])
    found = price_place(value[start:end], most[start:end], place_of(problem, place), -1, node_limit)
    return _pattern(place, start, found)


def many_patterns(
    problem: Problem,
    place: int,
    value: Floats,
    most: Ints,
    forced: Ints,
    *,
    node_limit: int = 2_000,
) -> list[Pattern]:
    """For each entry in `forced` a valuable set that contains it; repeated sets once.

    With the small default limit the sets are good rather than best, and their `bound` holds for
    sets that contain the entry.
    """
    start, end = int(problem.place_start[place]), int(problem.place_start[place + 1])
    chosen, size, total, bound = price_many(
        value[start:end], most[start:end], place_of(problem, place), forced - start, node_limit
    )
    found: dict[bytes, Pattern] = {}
    for row, length in enumerate(size):
        mine = chosen[row, :length]
        if length and mine.tobytes() not in found:
            priced = (mine, total[row], bound[row])
            found[mine.tobytes()] = _pattern(place, start, priced)
    return list(found.values())


def _pattern(place: int, start: int, found: tuple[Ints, float, float]) -> Pattern:
    chosen, value, bound = found
    entries, counts = np.unique(chosen, return_counts=True)
    return Pattern(place, entries + start, counts.astype(np.int64), float(value), float(bound))


@kernel
def price_place(
    value: Floats, most: Ints, place: Place, forced: int, node_limit: int
) -> tuple[Ints, float, float]:
    """`best_pattern` on the slices of one place; callable from other kernels.

    Args:
        value: worth of one copy of each entry.
        most: copies allowed of each.
        place: what the device asks.
        forced: position of an entry that has to be in the set; -1 for none.
        node_limit: branches to look at.

    Returns:
        Chosen positions with repetitions, their value, and its upper bound.
    """
    room = Room(place.capacity.copy(), place.max_items, 0, 0)
    base = 0.0
    if forced >= 0:
        if most[forced] < 1 or not fits(place, room, forced, 0):
            return np.empty(0, np.int64), 0.0, 0.0
        room = _beside(place, forced)
        base = value[forced]
    fit = _useful(value, most, place, room, forced)
    copies = np.empty(len(fit), np.int64)
    for i in range(len(fit)):
        copies[i] = min(most[fit[i]] - (1 if fit[i] == forced else 0), room.items)
    choices = _choices(value, place, room, fit, copies)
    depth = room.items + 1
    work = Work(
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
    work.left[0] = room.capacity
    size, best, bound = branch(place, room, choices, work, node_limit)
    found = np.empty(size + (1 if forced >= 0 else 0), np.int64)
    for i in range(size):
        found[i] = fit[work.found[i]]
    if forced >= 0:
        found[size] = forced
    return found, base + best, base + bound + SLACK * (1.0 + abs(base + bound))


@kernel
def price_many(
    value: Floats, most: Ints, place: Place, forced: Ints, node_limit: int
) -> tuple[Ints, Ints, Floats, Floats]:
    """`price_place` for each forced position: sorted sets by row, their sizes, values, bounds."""
    chosen = np.zeros((len(forced), place.max_items + 1), np.int64)
    size = np.zeros(len(forced), np.int64)
    total, bound = np.zeros(len(forced)), np.zeros(len(forced))
    for row in range(len(forced)):
        found, total[row], bound[row] = price_place(value, most, place, forced[row], node_limit)
        size[row] = len(found)
        chosen[row, : len(found)] = np.sort(found)
    return chosen, size, total, bound


@kernel
def _beside(place: Place, forced: int) -> Room:
    """What one replica leaves free."""
    return Room(
        place.capacity - place.use[forced],
        place.max_items - 1,
        place.busy[forced],
        place.code[forced],
    )


@kernel
def _useful(value: Floats, most: Ints, place: Place, room: Room, forced: int) -> Ints:
    """Entries worth something that fit and of which others are not better everywhere.

    An entry is left out where enough copies of others are worth at least as much and take no
    more: in any set there is a copy to put in its place. Those others may avoid no model.
    """
    n = len(value)
    order = np.argsort(-value)
    spare = most.copy()
    if forced >= 0:
        spare[forced] -= 1
    kept, front = np.empty(n, np.int64), np.empty(n, np.int64)
    size, front_size = 0, 0
    for k in range(n):
        i = order[k]
        if value[i] <= 0.0:
            break
        if spare[i] < 1 or not fits(place, room, i, place.max_items - room.items):
            continue
        if forced >= 0 and place.avoid[place.model[i], place.model[forced]] == 1:
            continue
        if _outdone(place, room, spare, front[:front_size], i):
            continue
        kept[size] = i
        size += 1
        if not place.avoid[place.model[i]].any():
            front[front_size] = i
            front_size += 1
    return kept[:size]


@plain
def _outdone(place: Place, room: Room, spare: Ints, front: Ints, entry: int) -> bool:
    """Whether enough copies of entries in `front`, all worth as much, take no more."""
    better = 0
    for j in front:
        worse = place.busy[j] > place.busy[entry]
        worse = worse or (len(place.table) > 0 and place.code[j] != place.code[entry])
        for r in range(len(room.capacity)):
            if place.use[j, r] > place.use[entry, r]:
                worse = True
                break
        if not worse:
            better += spare[j]
            if better >= room.items:
                return True
    return False


@kernel
def _choices(value: Floats, place: Place, room: Room, fit: Ints, copies: Ints) -> Choices:
    """Sort what is useful by loss. The positions in `fit` are put into that order, too."""
    n = len(fit)
    share = _shares(place, room, fit)
    price = multipliers(value[fit], share, copies)
    worth = np.zeros(n)
    for i in range(n):
        for r in range(len(price)):
            worth[i] += price[r] * share[i, r]
    order = np.argsort(worth - value[fit])
    fit[:] = fit[order]
    worth, copies = worth[order], copies[order]
    values = value[fit]
    loss = worth - values
    gain = np.zeros(n + 1)
    for k in range(n - 1, -1, -1):
        gain[k] = gain[k + 1] + copies[k] * max(0.0, -loss[k])
    return Choices(fit, values, copies, loss, worth, gain, price.sum())


@kernel
def _shares(place: Place, room: Room, fit: Ints) -> Floats:
    """What each entry takes of what is free, by resource, then load, then number.

    The load of n replicas is at most busy_limit[n], which is below a line I - s n: so the sum of
    (busy + s) is at most I.
    """
    resources = place.use.shape[1]
    share = np.zeros((len(fit), resources + 2))
    if room.items < 1:
        return share
    held, limit = place.max_items - room.items, place.busy_limit
    slope = 0.0
    if room.items > 1:
        slope = max(0.0, (limit[held + 1] - limit[place.max_items]) / (room.items - 1))
    level = 0.0
    for n in range(1, room.items + 1):
        level = max(level, limit[held + n] - room.busy + slope * n)
    for i in range(len(fit)):
        j = fit[i]
        for r in range(resources):
            if room.capacity[r] < UNLIMITED and place.use[j, r] > 0:
                share[i, r] = place.use[j, r] / room.capacity[r]
        if 0.0 < level < UNLIMITED:
            share[i, resources] = (place.busy[j] + slope) / level
        share[i, resources + 1] = 1.0 / room.items
    return share
