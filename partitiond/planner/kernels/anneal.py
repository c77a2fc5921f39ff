"""Ruins and recreates: empties a few devices, serves the lost demand again, keeps good results.

A step takes all or some replicas off a few devices. It then gives models what they lack, one
replica after the other: the entry with the best gain for its price, on the device that it fills
best. Worse answers are kept with the probability exp(-loss / temperature) (simulated annealing
over whole steps). The idea is that of Schrimpf et al. 2000; as in slack induction by string
removals, Christiaens and Vanden Berghe 2020, few devices are ruined, and a step never looks at
the whole answer again.

For cost objectives, the devices in use may cost no more than a budget, and the search looks for an
answer within it that lacks nothing. Each such answer is kept, and the budget drops below its cost.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from partitiond.planner.kernels import plain
from partitiond.planner.kernels.loads import (
    CAPACITY,
    COST,
    COUNT,
    EMPTY,
    FROZEN,
    GETS,
    HELD_AS,
    LARGEST,
    LEAST,
    LEVEL,
    LIMIT,
    MERIT,
    MODEL,
    MOST,
    MOST_ITEMS,
    NEED,
    NUMBER,
    SLOPE,
    SPREAD,
    USED,
    Data,
    SearchState,
    UndoJournal,
    add,
    below,
    clear,
    copy_state,
    falls_short,
    fits,
    note,
    remove,
    undo,
    uniform,
    worth_beside,
    worth_of,
)

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Words = NDArray[np.uint64]

TINY = 1e-9
WHOLE = 0.6
"""Probability that a step empties devices rather than take single replicas from them. Chosen."""
TOURNAMENT = 12
"""Number of devices from which the one worth least is given up. Chosen, not measured."""
FIXED = 1e15
"""More than the contents of any device are worth: marks devices that cannot be given up."""
ATTEMPTS = 10_000
"""Limit on attempts to empty devices at once until the budget is met. Chosen, not measured."""
FULLER = 0.05
"""Share of its gain that a replica gives up for a device with one resource less free. Chosen."""
PICKS = 6
"""Number of devices, of which the one that keeps the fewest running replicas is emptied. Chosen."""
BLINK = 0.01
"""Probability that a device is skipped, so that equal steps end differently. Chosen."""


class Scratch(NamedTuple):
    """Working memory of a step.

    Attributes:
        journal: undo log of the step.
        rng: state of the random numbers.
        models, key: models to serve again, and the keys that order them.
        mark: (M,) step in which a model was last put on the list.
        seen: (G,) last scan that looked at an empty device of the group.
        counter: (2,) number of steps and of scans so far.
    """

    journal: UndoJournal
    rng: Words
    models: Ints
    key: Floats
    mark: Ints
    seen: Ints
    counter: Ints


class Best(NamedTuple):
    """A replica to add: its merit, entry, device, and the device's level; -1 for none."""

    merit: float
    entry: int
    device: int
    level: int


class Rules(NamedTuple):
    """Parameters of the search.

    Attributes:
        temperature: loss at which one step in e is kept.
        by_cost: 1 to find answers that lack nothing at a falling cost, 0 to maximise the worth
            of all models together.
        noise: relative perturbation of prices within a step.
        wanting: models with unserved demand that a step looks at.
        outside: devices looked at beside the ruined ones; all if there are no more.
    """

    temperature: float
    by_cost: int
    noise: float
    wanting: int
    outside: int


class Here(NamedTuple):
    """The running replicas, and how many of them may leave their device.

    Attributes:
        item: (E,) item of each entry: the kind of engine, whatever the level it runs at.
        runs: (D, most) items that run on each device, the first `number` of a row.
        number: (D,)
        gone: (D,) replicas that have left each device; updated by the search.
        most_gone: limit on the replicas that leave their device, in sum; -1 for no limit.
    """

    item: Ints
    runs: Ints
    number: Ints
    gone: Ints
    most_gone: int


@plain
def gone_from(state: SearchState, here: Here, d: int) -> int:
    """Count the replicas that run on device d and are not on it in this answer."""
    runs, number, stays = here.runs, here.number[d], 0
    for i in range(number):
        # Equal replicas are matched one by one: the k-th of a kind with the k-th.
        rank = 0
        for j in range(i):
            rank += runs[d, j] == runs[d, i]
        for j in range(state.devices[d, COUNT]):
            if here.item[state.items[d, j]] == runs[d, i]:
                if rank == 0:
                    stays += 1
                    break
                rank -= 1
    return int(number - stays)


@plain
def count_gone(state: SearchState, here: Here) -> int:
    """Fill `gone` for all devices; return the sum."""
    total = 0
    for d in range(here.number.shape[0]):
        here.gone[d] = gone_from(state, here, d)
        total += here.gone[d]
    return total


@plain
def _gone_now(state: SearchState, journal: UndoJournal, here: Here, total: int) -> int:
    """Return how many replicas have left after a step, which changed the journal's devices."""
    for at in range(journal.size[0]):
        d = journal.devices[at]
        total += gone_from(state, here, d) - here.gone[d]
    return total


@plain
def search(
    data: Data,
    state: SearchState,
    best: SearchState,
    scratch: Scratch,
    rules: Rules,
    budget: Ints,
    here: Here,
    steps: int,
) -> int:
    """Take some steps; return how often `best` improved.

    Args:
        data: the problem.
        state: the current answer of the search.
        best: the best answer so far; updated in place.
        scratch: working memory of a step.
        rules: parameters of the search.
        budget: (1,) limit on the devices' cost; drops below the cost of each complete answer.
        here: the running replicas.
        steps: number of steps.
    """
    found = 0
    limited = here.most_gone >= 0
    total = count_gone(state, here) if limited else 0
    for _ in range(steps):
        scratch.counter[0] += 1
        step = scratch.counter[0]
        scratch.journal.size[0] = 0
        before, cost = state.worth[0], state.cost[0]
        listed = _ruin(data, state, scratch, here, step)
        listed = _list_wanting(data, state, scratch, rules.wanting, step, listed)
        _order(data, scratch, listed)
        at = 0
        while at < listed:
            m = scratch.models[at]
            listed = serve(data, state, scratch, rules, budget[0], m, step, listed)
            at += 1
        loss = before - state.worth[0]
        worse = loss > TINY
        after = _gone_now(state, scratch.journal, here, total) if limited else 0
        if limited:
            # If nothing is gained, fewer moves or a lower cost are better.
            worse = worse or (loss >= -TINY and (after > total or state.cost[0] > cost))
        if (limited and after > max(here.most_gone, total)) or (
            worse and -rules.temperature * np.log(uniform(scratch.rng) + 1e-300) < max(loss, TINY)
        ):
            undo(data, state, scratch.journal)
            continue
        if limited:
            for at in range(scratch.journal.size[0]):
                d = scratch.journal.devices[at]
                here.gone[d] = gone_from(state, here, d)
            total = after
            if total > here.most_gone:
                continue
        if rules.by_cost:
            if state.worth[0] >= -TINY and state.cost[0] <= budget[0]:
                copy_state(state, best)
                found += 1
                budget[0] = state.cost[0] - 1
                shrink(data, state, scratch.rng, budget[0])
                total = count_gone(state, here) if limited else 0
        elif state.worth[0] > best.worth[0] + TINY:
            copy_state(state, best)
            found += 1
    return found


@plain
def _ruin(data: Data, state: SearchState, scratch: Scratch, here: Here, step: int) -> int:
    """Empty a few devices, or take some replicas off more; return how many models are listed."""
    journal, rng, devices = scratch.journal, scratch.rng, state.devices.shape[0]
    whole = uniform(rng) < WHOLE
    count = min(devices, 1 + below(rng, 4) if whole else 2 + below(rng, 6))
    listed = 0
    for _ in range(3 * count):
        if journal.size[0] == count:
            break
        d = below(rng, devices) if here.most_gone < 0 else _least_kept(state, here, rng)
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
def _least_kept(state: SearchState, here: Here, rng: Words) -> int:
    """Of a few random devices, return the one that keeps the fewest running replicas."""
    chosen, least = 0, 1 << 60
    for _ in range(PICKS):
        d = below(rng, state.devices.shape[0])
        stays = state.devices[d, COUNT] - here.gone[d] + below(rng, 3)
        if stays < least:
            chosen, least = d, stays
    return chosen


@plain
def _take(
    data: Data, state: SearchState, scratch: Scratch, d: int, i: int, step: int, listed: int
) -> int:
    """Remove one replica unless its model is frozen, and list the model once."""
    m = data.entries[state.items[d, i], MODEL]
    if data.models[m, FROZEN]:
        return listed
    remove(data, state, d, i)
    return _list(scratch, m, step, listed)


@plain
def _list(scratch: Scratch, m: int, step: int, listed: int) -> int:
    if scratch.mark[m] == step or listed >= scratch.models.shape[0]:
        return listed
    scratch.mark[m] = step
    scratch.models[listed] = m
    return listed + 1


@plain
def _list_wanting(
    data: Data, state: SearchState, scratch: Scratch, wanting: int, step: int, listed: int
) -> int:
    """List some of the models that lack something, beginning with a random one."""
    models = state.models.shape[0]
    start, most = below(scratch.rng, models), min(models, listed + wanting)
    for k in range(models):
        if listed >= most:
            break
        m = start + k if start + k < models else start + k - models
        if data.models[m, FROZEN] == 0 and lacks(data, state, m):
            listed = _list(scratch, m, step, listed)
    return listed


@plain
def lacks(data: Data, state: SearchState, m: int) -> bool:
    """Return whether more of model m would be worth anything."""
    if state.models[m, NUMBER] >= data.models[m, MOST]:
        return False
    if (
        state.models[m, NUMBER] < data.models[m, LEAST]
        or state.models[m, GETS] < data.models[m, NEED]
        or (data.models[m, SPREAD] >= 0 and falls_short(data, state, m))
    ):
        return True
    return bool(data.values[m, SLOPE] > 0 and state.models[m, GETS] < data.models[m, LIMIT])


@plain
def _order(data: Data, scratch: Scratch, listed: int) -> None:
    """Sort the listed models: by merit, by size, or at random."""
    how = below(scratch.rng, 4)
    for i in range(listed):
        m = scratch.models[i]
        merit, largest = data.values[m, MERIT], data.values[m, LARGEST]
        key = uniform(scratch.rng)
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
    """Sort the listed models by falling key; they are few, and usually nearly sorted already."""
    for i in range(1, listed):
        m, key, j = scratch.models[i], scratch.key[i], i - 1
        while j >= 0 and scratch.key[j] < key:
            scratch.models[j + 1], scratch.key[j + 1] = scratch.models[j], scratch.key[j]
            j -= 1
        scratch.models[j + 1], scratch.key[j + 1] = m, key


@plain
def serve(
    data: Data,
    state: SearchState,
    scratch: Scratch,
    rules: Rules,
    budget: int,
    m: int,
    step: int,
    listed: int,
) -> int:
    """Give model m replicas as long as the answer gains by them and one fits.

    Models that lose by this are listed to be served as well; return how many are listed then.
    """
    while lacks(data, state, m):
        e, d, level = _best_way(data, state, scratch, rules, budget, m)
        if d < 0:
            return listed
        note(state, scratch.journal, d, step)
        slower = state.devices[d, COUNT] > 0 and state.devices[d, LEVEL] != level
        add(data, state, d, e, level)
        if slower:
            for i in range(state.devices[d, COUNT] - 1):
                n = data.entries[state.items[d, i], MODEL]
                if n != m and not data.models[n, FROZEN] and lacks(data, state, n):
                    listed = _list(scratch, n, step, listed)
    return listed


@plain
def _best_way(
    data: Data, state: SearchState, scratch: Scratch, rules: Rules, budget: int, m: int
) -> tuple[int, int, int]:
    """Return entry, device and level of model m's replica with the most gain for its price.

    Looks at the devices of this step and some others. A device with less room left counts a little
    more. -1 if no device can hold a replica from which the answer gains.
    """
    scratch.counter[1] += 1
    journal, rng, devices = scratch.journal, scratch.rng, state.devices.shape[0]
    start = below(rng, devices)
    room = budget - state.cost[0]
    best = Best(0.0, -1, -1, 0)
    for k in range(-journal.size[0], min(devices, rules.outside)):
        d = journal.devices[-k - 1] if k < 0 else start + k
        d = d if d < devices else d - devices
        q = state.devices[d, HELD_AS]
        if q != EMPTY:
            best = _best_on(data, state, rng, rules.noise, room, m, d, q, best)
            continue
        group = data.device_group[d]
        # Empty devices of a group are alike, so only the first one is looked at.
        if scratch.seen[group] == scratch.counter[1] or data.group_cost[group] > room:
            continue
        scratch.seen[group] = scratch.counter[1]
        c = data.device_class[d]
        for empty in range(data.first_site[c], data.first_site[c + 1]):
            left = room - data.group_cost[group]
            best = _best_on(data, state, rng, rules.noise, left, m, d, empty, best)
    return best.entry, best.device, best.level


@plain
def _best_on(
    data: Data,
    state: SearchState,
    rng: Words,
    noise: float,
    room: int,
    m: int,
    d: int,
    q: int,
    best: Best,
) -> Best:
    """Return the better of the best so far and a replica of model m on device d at site q."""
    first, end = data.model_site[m, q], data.model_site[m, q + 1]
    if first == end or not _has_room(data, state, m, d, q):
        return best
    now = worth_of(data, state, m, d, 0, 0)
    lowest = state.devices[d, LEVEL] if state.devices[d, COUNT] else 0
    left = 0.0
    for r in range(data.pull.shape[1]):
        left += data.pull[q, r] * (data.sites[q, CAPACITY + r] - state.devices[d, USED + r])
    merit, entry, device, level = best.merit, best.entry, best.device, best.level
    for k in range(first, end):
        e = data.model_entry[k]
        hope = worth_of(data, state, m, d, data.rates[e, lowest], 1) - now
        share = (1 + noise * uniform(rng)) * (1 - FULLER * left) / data.price[e]
        if hope <= TINY or hope * share <= merit or data.entries[e, COST] > room:
            continue
        there = fits(data, state, d, e)
        if there < 0 or uniform(rng) < BLINK:
            continue
        gain = worth_beside(data, state, d, e, there)
        if gain > TINY and gain * share > merit:
            merit, entry, device, level = gain * share, e, d, there
    return Best(merit, entry, device, level)


@plain
def _has_room(data: Data, state: SearchState, m: int, d: int, q: int) -> bool:
    """Return whether device d has room for the least that an entry of model m takes at site q."""
    if state.devices[d, COUNT] >= data.sites[q, MOST_ITEMS]:
        return False
    for r in range(data.pull.shape[1]):
        if state.devices[d, USED + r] + data.least_use[m, q, r] > data.sites[q, CAPACITY + r]:
            return False
    return True


@plain
def shrink(data: Data, state: SearchState, rng: Words, budget: int) -> None:
    """Empty devices, those worth least first, until the rest costs no more than the budget."""
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
            clear(data, state, chosen)
        if state.cost[0] <= budget:
            return


@plain
def revalue(data: Data, state: SearchState) -> None:
    """Sum the worth anew: after a change of prices, and against accumulated rounding."""
    state.worth[0] = 0.0
    for m in range(state.models.shape[0]):
        state.worth[0] += worth_of(data, state, m, 0, 0, 0)


@plain
def construct(data: Data, state: SearchState, scratch: Scratch, rules: Rules, budget: int) -> None:
    """Give all models what they lack, as far as there is room, the largest models first."""
    scratch.counter[0] += 1
    scratch.journal.size[0] = 0
    step = scratch.counter[0]
    listed = _list_wanting(data, state, scratch, state.models.shape[0], step, 0)
    for i in range(listed):
        m = scratch.models[i]
        scratch.key[i] = data.values[m, LARGEST if rules.by_cost else MERIT]
    _sort(scratch, listed)
    for i in range(listed):
        scratch.journal.size[0] = 0
        m = scratch.models[i]
        serve(data, state, scratch, rules, budget, m, -1 - i, listed)
    scratch.journal.size[0] = 0
