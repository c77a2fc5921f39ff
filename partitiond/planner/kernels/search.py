"""Ruin and recreate: empty a few devices, serve again what was lost, keep it if it is good.

A step takes all or some replicas off a few devices, and then gives models what they lack, one
replica after the other, the entry with the best gain for its price on the device that it fills
best. Worse answers are kept with the probability exp(-loss / temperature) (simulated annealing
over whole steps; the idea is that of Schrimpf et al. 2000, and of slack induction by string
removals, Christiaens and Vanden Berghe 2020, in that few devices are ruined and never all of what
is there is looked at again).

Where cost counts, the devices in use may cost no more than a budget, and what is searched is an
answer within it that lacks nothing. Each one found is kept, and the budget goes below its cost.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from partitiond.planner.kernels import plain
from partitiond.planner.kernels.state import (
    CAPACITY,
    COST,
    COUNT,
    EMPTY,
    END,
    FIRST,
    FROZEN,
    GETS,
    HELD_AS,
    LEAST,
    LIMIT,
    MODEL,
    MOST,
    NEED,
    NUMBER,
    PLACE,
    SLOPE,
    USED,
    Data,
    Journal,
    State,
    add,
    below,
    copy_state,
    fits,
    gain_of,
    note,
    remove,
    undo,
    uniform,
    worth_of,
)

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Words = NDArray[np.uint64]

TINY = 1e-9
WHOLE = 0.6
"""Probability that a step empties devices rather than take single replicas from them."""
TOURNAMENT = 12
"""Devices of which the one worth least is given up."""
FIXED = 1e15
"""Beyond what any device holds is worth: for what cannot be given up."""
ATTEMPTS = 10_000
"""Devices that are given up at once, or not found, before it is left at that."""
BLINK = 0.01
"""Probability that a device is overlooked, so that equal steps end differently."""


class Scratch(NamedTuple):
    """Space that a step uses.

    Attributes:
        models, key: models to serve again, and by what they are ordered.
        mark: (M,) step in which a model was last put on the list.
        seen: (G,) mark of the last scan that looked at an empty device of the group.
        counter: (2,) steps and scans so far.
    """

    models: Ints
    key: Floats
    mark: Ints
    seen: Ints
    counter: Ints


class Rules(NamedTuple):
    """How to search.

    Attributes:
        temperature: loss at which one step in e is kept.
        by_cost: 1 where answers that lack nothing are to cost less and less, 0 where the worth
            of all models together counts.
        noise: how much prices are shaken within a step.
        wanting: models that lack something which are looked at in a step.
        outside: devices looked at beside the ruined ones; all if there are no more.
    """

    temperature: float
    by_cost: int
    noise: float
    wanting: int
    outside: int


@plain
def search(
    data: Data,
    state: State,
    best: State,
    journal: Journal,
    scratch: Scratch,
    rng: Words,
    rules: Rules,
    budget: Ints,
    steps: int,
) -> int:
    """Take some steps; returns how often `best` became better.

    Args:
        data: the question.
        state: the answer the search is at.
        best: the best one so far; in place.
        journal: space for taking back.
        scratch: space for a step.
        rng: state of the random numbers.
        rules: how to search.
        budget: (1,) what devices may cost; goes below the cost of each complete answer.
        steps: how many.
    """
    found = 0
    for _ in range(steps):
        scratch.counter[0] += 1
        step = scratch.counter[0]
        journal.size[0] = 0
        before = state.worth[0]
        listed = _ruin(data, state, journal, scratch, rng, step)
        listed = _list_wanting(data, state, scratch, rng, rules.wanting, step, listed)
        _order(data, state, scratch, rng, listed)
        for i in range(listed):
            serve(data, state, journal, scratch, rng, rules, budget[0], scratch.models[i], step)
        loss = before - state.worth[0]
        if loss > TINY and -rules.temperature * np.log(uniform(rng) + 1e-300) < loss:
            undo(data, state, journal)
            continue
        if rules.by_cost:
            if state.worth[0] >= -TINY and state.cost[0] <= budget[0]:
                copy_state(state, best)
                found += 1
                budget[0] = state.cost[0] - 1
                shrink(data, state, rng, budget[0])
        elif state.worth[0] > best.worth[0] + TINY:
            copy_state(state, best)
            found += 1
    return found


@plain
def _ruin(
    data: Data, state: State, journal: Journal, scratch: Scratch, rng: Words, step: int
) -> int:
    """Empty a few devices, or take some replicas from more; returns how many models are listed."""
    devices = state.devices.shape[0]
    whole = uniform(rng) < WHOLE
    count = min(devices, 1 + below(rng, 4) if whole else 2 + below(rng, 6))
    listed = 0
    for _ in range(3 * count):
        if journal.size[0] == count:
            break
        d = below(rng, devices)
        if journal.mark[d] == step:
            continue
        note(state, journal, d, step)
        if whole:
            for i in range(state.devices[d, COUNT] - 1, -1, -1):
                listed = _take(data, state, scratch, d, i, step, listed)
            continue
        for _ in range(1 + below(rng, 2)):
            if state.devices[d, COUNT] > 0:
                i = below(rng, state.devices[d, COUNT])
                listed = _take(data, state, scratch, d, i, step, listed)
    return listed


@plain
def _take(
    data: Data, state: State, scratch: Scratch, d: int, i: int, step: int, listed: int
) -> int:
    """Take one replica away unless its model is frozen, and list the model once."""
    m = data.entries[state.items[d, i], MODEL]
    if data.models[m, FROZEN]:
        return listed
    remove(data, state, d, i)
    return _list(scratch, m, step, listed)


@plain
def _list(scratch: Scratch, m: int, step: int, listed: int) -> int:
    if scratch.mark[m] == step:
        return listed
    scratch.mark[m] = step
    scratch.models[listed] = m
    return listed + 1


@plain
def _list_wanting(
    data: Data, state: State, scratch: Scratch, rng: Words, wanting: int, step: int, listed: int
) -> int:
    """Add some of the models that lack something, from a random one on."""
    models = state.models.shape[0]
    start, most = below(rng, models), min(models, listed + wanting)
    for k in range(models):
        if listed >= most:
            break
        m = start + k if start + k < models else start + k - models
        if data.models[m, FROZEN] == 0 and lacks(data, state, m):
            listed = _list(scratch, m, step, listed)
    return listed


@plain
def lacks(data: Data, state: State, m: int) -> bool:
    """Whether more of model m would be worth anything."""
    if state.models[m, NUMBER] >= data.models[m, MOST]:
        return False
    if (
        state.models[m, NUMBER] < data.models[m, LEAST]
        or state.models[m, GETS] < data.models[m, NEED]
    ):
        return True
    return bool(data.values[m, SLOPE] > 0 and state.models[m, GETS] < data.models[m, LIMIT])


@plain
def _order(data: Data, state: State, scratch: Scratch, rng: Words, listed: int) -> None:
    """Sort the listed models: by merit, by size, or at random."""
    how = below(rng, 4)
    for i in range(listed):
        m = scratch.models[i]
        merit, largest = 0.0, 0.0
        for k in range(data.models[m, FIRST], data.models[m, END]):
            e = data.model_entry[k]
            merit = max(merit, gain_of(data, state, e) / data.price[e])
            largest = max(largest, data.price[e])
        key = uniform(rng)
        if how == 0:
            key = merit * (1 + 0.3 * key)
        elif how == 1:
            key = largest * (1 + 0.3 * key)
        elif how == 2:
            key = merit * largest * (1 + 0.3 * key)
        scratch.key[i] = key
    _sort(scratch, listed)


@plain
def _sort(scratch: Scratch, listed: int) -> None:
    """The listed models by falling key; they are few, and nearly sorted more often than not."""
    for i in range(1, listed):
        m, key, j = scratch.models[i], scratch.key[i], i - 1
        while j >= 0 and scratch.key[j] < key:
            scratch.models[j + 1], scratch.key[j + 1] = scratch.models[j], scratch.key[j]
            j -= 1
        scratch.models[j + 1], scratch.key[j + 1] = m, key


@plain
def serve(
    data: Data,
    state: State,
    journal: Journal,
    scratch: Scratch,
    rng: Words,
    rules: Rules,
    budget: int,
    m: int,
    step: int,
) -> None:
    """Give model m replicas as long as it gains by them and one fits."""
    while lacks(data, state, m):
        merit, chosen, where = 0.0, -1, -1
        for k in range(data.models[m, FIRST], data.models[m, END]):
            e = data.model_entry[k]
            gain = gain_of(data, state, e)
            if gain <= TINY:
                continue
            mine = gain / data.price[e] * (1 + rules.noise * uniform(rng))
            if mine > merit:
                d = _best_device(data, state, journal, scratch, rng, rules, budget, e)
                if d >= 0:
                    merit, chosen, where = mine, e, d
        if chosen < 0:
            return
        note(state, journal, where, step)
        add(data, state, where, chosen)


@plain
def _best_device(
    data: Data,
    state: State,
    journal: Journal,
    scratch: Scratch,
    rng: Words,
    rules: Rules,
    budget: int,
    e: int,
) -> int:
    """The device that entry e leaves least room on; -1 where none holds it."""
    scratch.counter[1] += 1
    devices = state.devices.shape[0]
    outside = min(devices, rules.outside)
    start = below(rng, devices)
    best, least = -1, np.inf
    room = budget - state.cost[0] - data.entries[e, COST]
    if room < 0:
        return -1
    p = data.entries[e, PLACE]
    for k in range(-journal.size[0], outside):
        d = journal.devices[-k - 1] if k < 0 else start + k
        d = d if d < devices else d - devices
        if state.devices[d, HELD_AS] == EMPTY:
            group = data.device_group[d]
            # Empty devices of a group are alike, and each costs what the first one does.
            if scratch.seen[group] == scratch.counter[1] or data.group_cost[group] > room:
                continue
            scratch.seen[group] = scratch.counter[1]
        elif state.devices[d, HELD_AS] != p:
            continue
        if not fits(data, state, d, e) or uniform(rng) < BLINK:
            continue
        left = 0.0
        for r in range(data.pull.shape[1]):
            left += data.pull[p, r] * (data.places[p, CAPACITY + r] - state.devices[d, USED + r])
        if left < least:
            best, least = d, left
    return best


@plain
def shrink(data: Data, state: State, rng: Words, budget: int) -> None:
    """Empty devices until what is in use costs no more than the budget, those worth least first."""
    devices = state.devices.shape[0]
    for _ in range(ATTEMPTS):
        chosen, least = -1, FIXED
        for _ in range(TOURNAMENT):
            d = below(rng, devices)
            worth = 0.0 if state.devices[d, COUNT] else FIXED
            for i in range(state.devices[d, COUNT]):
                e = state.items[d, i]
                worth += data.price[e]
                if data.models[data.entries[e, MODEL], FROZEN]:
                    worth += FIXED
            if worth < least:
                chosen, least = d, worth
        if chosen >= 0:
            while state.devices[chosen, COUNT] > 0:
                remove(data, state, chosen, state.devices[chosen, COUNT] - 1)
        if state.cost[0] <= budget:
            return


@plain
def revalue(data: Data, state: State) -> None:
    """Sum the worth anew: after prices have changed, and against rounding."""
    state.worth[0] = 0.0
    for m in range(state.models.shape[0]):
        state.worth[0] += worth_of(data, m, state.models[m, GETS], state.models[m, NUMBER])


@plain
def construct(
    data: Data,
    state: State,
    journal: Journal,
    scratch: Scratch,
    rng: Words,
    rules: Rules,
    budget: int,
) -> None:
    """Give all models what they lack, as far as there is room, the largest first."""
    scratch.counter[0] += 1
    journal.size[0] = 0
    step = scratch.counter[0]
    listed = _list_wanting(data, state, scratch, rng, state.models.shape[0], step, 0)
    for i in range(listed):
        m = scratch.models[i]
        merit, largest = 0.0, 0.0
        for k in range(data.models[m, FIRST], data.models[m, END]):
            e = data.model_entry[k]
            merit = max(merit, gain_of(data, state, e) / data.price[e])
            largest = max(largest, data.price[e])
        scratch.key[i] = largest if rules.by_cost else merit
    _sort(scratch, listed)
    for i in range(listed):
        journal.size[0] = 0
        serve(data, state, journal, scratch, rng, rules, budget, scratch.models[i], -1 - i)
    journal.size[0] = 0
