"""Searches depth-first for the most valuable set of replicas that a device can hold."""

from typing import NamedTuple

from partitiond.planner.kernels import plain
from partitiond.planner.model.sites import Bits, Floats, Ints

SLACK = 1e-9
"""Relative tolerance for the rounding of floating-point sums; bounds are raised by it."""


class DeviceLimits(NamedTuple):
    """The limits of a way to run a device: slices of the arrays of `Sites`.

    `table` is empty without MIG. Only the rows of `busy_limit` up to `max_items` are read.
    """

    use: Ints
    busy: Ints
    code: Ints
    model: Ints
    capacity: Ints
    max_items: int
    busy_limit: Ints
    table: Bits
    avoid: Bits


class SortedEntries(NamedTuple):
    """Entries in order of loss, with the figures that branching needs.

    Attributes:
        fit: positions of the entries.
        worth: p.a of each entry.
        gain: most that the entries from here on can gain: sum of copies times negative losses.
        whole: p.(all of the device).
    """

    fit: Ints
    value: Floats
    copies: Ints
    loss: Floats
    worth: Floats
    gain: Floats
    whole: float


class BranchState(NamedTuple):
    """The state of the search at each depth: next entry, chosen entry, its copy, and the rest."""

    at: Ints
    chosen: Ints
    copy: Ints
    left: Ints
    load: Ints
    code: Ints
    total: Floats
    rest: Floats
    found: Ints


@plain
def fits(place: DeviceLimits, entry: int) -> bool:
    """Return whether a replica fits an empty device."""
    if place.max_items < 1 or place.busy[entry] > place.busy_limit[1]:
        return False
    for r in range(len(place.capacity)):
        if place.use[entry, r] > place.capacity[r]:
            return False
    if len(place.table) > 0:
        code = place.code[entry]
        return bool(code < len(place.table) and place.table[code] == 1)
    return True


@plain
def branch(
    place: DeviceLimits, choices: SortedEntries, work: BranchState, floor: float, node_limit: int
) -> tuple[int, float, float]:
    """Search depth-first; write the best set to `work.found`, return its size, value and bound.

    A set worth no more than `floor` is not searched for.
    """
    n = len(choices.fit)
    work.rest[0] = choices.whole
    best, size, depth, nodes = max(0.0, floor), 0, 0, 0
    slack = 0.5 * SLACK * (1.0 + choices.whole + choices.gain[0])
    while depth >= 0:
        k = work.at[depth]
        if k >= n or depth >= place.max_items or _most(choices, work, depth) <= best + slack:
            depth -= 1
            continue
        nodes += 1
        if nodes > node_limit:
            break
        addable = _may_add(place, choices, work, depth)
        work.at[depth] = k + 1
        if not addable:
            continue
        _push(place, choices, work, depth, k)
        depth += 1
        if work.total[depth] > best:
            best, size = work.total[depth], depth
            for d in range(depth):
                work.found[d] = work.chosen[d]
    bound = best + 2 * slack
    for d in range(depth + 1):
        if work.at[d] < n and d < place.max_items:
            bound = max(bound, _most(choices, work, d) + slack)
    return size, best, bound


@plain
def _most(choices: SortedEntries, work: BranchState, depth: int) -> float:
    """Return an upper bound on the chosen set extended by at least one entry from here on."""
    k = work.at[depth]
    return float(work.total[depth] + work.rest[depth] + choices.gain[k] - max(0.0, choices.loss[k]))


@plain
def _may_add(place: DeviceLimits, choices: SortedEntries, work: BranchState, depth: int) -> bool:
    k = work.at[depth]
    again = work.copy[depth - 1] + 1 if depth > 0 and work.chosen[depth - 1] == k else 1
    entry = choices.fit[k]
    if again > choices.copies[k]:
        return False
    if work.load[depth] + place.busy[entry] > place.busy_limit[depth + 1]:
        return False
    for r in range(place.use.shape[1]):
        if place.use[entry, r] > work.left[depth, r]:
            return False
    if len(place.table) > 0:
        both = work.code[depth] + place.code[entry]
        if both >= len(place.table) or place.table[both] == 0:
            return False
    for d in range(depth):
        if place.avoid[place.model[entry], place.model[choices.fit[work.chosen[d]]]] == 1:
            return False
    work.copy[depth] = again
    return True


@plain
def _push(
    place: DeviceLimits, choices: SortedEntries, work: BranchState, depth: int, k: int
) -> None:
    """Choose entry k at this depth; the next depth starts with another copy of it."""
    entry, below = choices.fit[k], depth + 1
    work.chosen[depth] = k
    for r in range(place.use.shape[1]):
        work.left[below, r] = work.left[depth, r] - place.use[entry, r]
    work.load[below] = work.load[depth] + place.busy[entry]
    work.code[below] = work.code[depth] + place.code[entry]
    work.total[below] = work.total[depth] + choices.value[k]
    work.rest[below] = max(0.0, work.rest[depth] - choices.worth[k])
    work.at[below] = k
