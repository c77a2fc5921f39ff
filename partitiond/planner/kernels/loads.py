"""Keeps the loads of all devices as arrays: what fits, adding, removing, undoing.

A device is run in a sharing mode; its level of interference follows from what it holds. One more
replica may therefore slow down the replicas beside it: its worth is the gain of its model, less the
losses of the others. A change takes as many steps as there are replicas on the device.

`Data` is the problem and never changes during a search; `SearchState` is one answer. A
`UndoJournal` records what a step has touched, so that a step that made things worse can be undone.

Related values are stored together: one row for each site, entry, model and device, with the
columns below. (One array for each column took four times as long to compile and ran slower.)

The worth of what a model gets is

    slope x min(rate, limit) - lacking[ceil(missing / cell)] - short x (replicas missing)

`missing` is the larger of what the demand lacks, and of what would be lacking if the fault domain
that serves most were lost. For goodput, `slope` is the weight and `lacking` is 0. For serving all
demand at the least cost, `lacking` is the price of the cheapest replicas that cover what is
missing, so that the sum over all models says how much device capacity is still to be found.
"""

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from partitiond.planner.kernels import plain

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bits = NDArray[np.uint8]
Words = NDArray[np.uint64]

EMPTY: Final = -1
"""Site of a device that holds nothing."""

# Columns of Data.sites; the resources' capacities follow.
CLASS: Final = 0
MOST_ITEMS: Final = 1
TABLE: Final = 2
"""Offset of the MIG table; -1 without one."""
TABLE_SIZE: Final = 3
CAPACITY: Final = 4

# Columns of Data.entries; what the entry uses of the resources follows.
MODEL: Final = 0
SITE: Final = 1
LOAD: Final = 2
KAPPA: Final = 3
"""The entry's kappa, as a position among all kappas, ascending."""
TOP: Final = 4
"""The highest level the entry tolerates, as a position among the levels of its mode."""
CODE: Final = 5
COST: Final = 6
TAKES: Final = 7

# Columns of Data.models.
NEED: Final = 0
LEAST: Final = 1
MOST: Final = 2
LIMIT: Final = 3
FROZEN: Final = 4
FIRST: Final = 5
"""Entries of the model are Data.model_entry[FIRST..END]."""
END: Final = 6
SPREAD: Final = 7
"""Row of `Data.domain_of` and `SearchState.by_domain` of a model that must survive a loss; else
-1."""
LEFT: Final = 8
"""Rate that has to be left when any one fault domain is lost."""
LEFT_NUMBER: Final = 9
"""Number of replicas that has to be left then."""

# Columns of Data.values.
SLOPE: Final = 0
SHORT: Final = 1
PER_CELL: Final = 2
"""Cells of `lacking` per unit of rate."""
MERIT: Final = 3
"""The most that a first replica is worth, relative to its price."""
LARGEST: Final = 4
"""The price of the most expensive entry."""
UP: Final = 0.999999
"""Rounds cells up, except for those that are whole apart from floating-point rounding."""

# Columns of State.devices; the used amounts of the resources follow.
HELD_AS: Final = 0
COUNT: Final = 1
BUSY: Final = 2
HELD_CODE: Final = 3
LEVEL: Final = 4
CROWD: Final = 5
"""The largest kappa on the device, as a position like `KAPPA`."""
BEARS: Final = 6
"""The highest level that all replicas on the device tolerate."""
USED: Final = 7

# Columns of State.models.
GETS: Final = 0
NUMBER: Final = 1
CHANGE: Final = 2
"""Rate that a pending change would add; 0 between changes."""


class Data(NamedTuple):
    """The problem; see `sites.Sites` for what is not explained here.

    Attributes:
        sites: (Q, 4 + R) columns above.
        limit_of: (Q, L, K) row of `busy_limit` at a level and a kappa; -1 if there is none.
        busy_limit: (B, N + 1) largest sum of loads for n replicas; -1 for more than it can hold.
        entries: (E, 7 + R)
        rates: (E, L) rate of an entry at each level.
        models: (M, 10)
        model_entry: (E,) entries by model and site.
        model_site: (M, Q + 1) offsets in `model_entry` of a model's entries at a site.
        least_use: (M, Q, R) the least that an entry of a model at a site takes.
        first_site: (C + 1,) first site of a class; a class of devices that hold nothing has none.
        values: (M, 5)
        lacking: (M, cells) price of lacking that many cells of rate.
        price: (E,) what an entry takes of devices, in devices' cost.
        pull: (Q, R) worth of one unit of a free resource, to tell which device is fuller.
        device_class, device_group: (D,) devices of a group also draw from the same pools.
        pool_start, pool_list: pools of device d are pool_list[pool_start[d]..[d + 1]].
        has_avoid: 1 if any two models avoid each other.
        domain_of: (S, D) fault domain of each device, for models that must survive a loss.
    """

    sites: Ints
    limit_of: Ints
    busy_limit: Ints
    tables: Bits
    entries: Ints
    rates: Ints
    entry_pool: Ints
    models: Ints
    model_entry: Ints
    model_site: Ints
    least_use: Ints
    first_site: Ints
    values: Floats
    lacking: Floats
    price: Floats
    pull: Floats
    avoid: Bits
    device_class: Ints
    device_group: Ints
    group_cost: Ints
    pool_capacity: Ints
    pool_kind: Ints
    pool_start: Ints
    pool_list: Ints
    has_avoid: int
    domain_of: Ints


class SearchState(NamedTuple):
    """One answer: the contents of each device, and the sums that tell what still fits.

    Attributes:
        devices: (D, 7 + R) how a device is run, and what is used of it.
        items: (D, most) entries on a device, the first COUNT of a row.
        models: (M, 3) rate and number of replicas.
        pool: (L,) used amount of each pool.
        cost: (1,) cost of devices in use plus the additional cost of their replicas.
        worth: (1,) sum over all models of the worth of what they get.
        by_domain: (S, domains, 2) rate and replicas in each fault domain.
    """

    devices: Ints
    items: Ints
    models: Ints
    pool: Ints
    cost: Ints
    worth: Floats
    by_domain: Ints


class UndoJournal(NamedTuple):
    """The devices that a step has touched, as they were before.

    Attributes:
        mark: (D,) step in which a device was last recorded.
        devices, held, items: the devices recorded in this step, the number and entries they held.
        size: (1,) number of devices recorded.
    """

    mark: Ints
    devices: Ints
    size: Ints
    held: Ints
    items: Ints


@plain
def uniform(rng: Words) -> float:
    """Return a number in 0..1, by xorshift64: a seed gives the same numbers everywhere."""
    x = rng[0]
    x ^= x << np.uint64(13)
    x ^= x >> np.uint64(7)
    x ^= x << np.uint64(17)
    rng[0] = x
    return float(x >> np.uint64(11)) / 9007199254740992.0


@plain
def below(rng: Words, count: int) -> int:
    """Return a whole number in 0..count - 1."""
    return min(count - 1, int(uniform(rng) * count))


@plain
def worth_of(data: Data, state: SearchState, m: int, d: int, more: int, number: int) -> float:
    """Return the worth of model m with `more` rate from `number` more replicas on device d."""
    rate, held = state.models[m, GETS] + more, state.models[m, NUMBER] + number
    value = data.values[m, SLOPE] * min(rate, data.models[m, LIMIT])
    missing = data.models[m, NEED] - rate
    short = data.models[m, LEAST] - held
    if data.models[m, SPREAD] >= 0:
        lost, lost_number = _most_lost(data, state, m, d, more, number)
        missing = max(missing, data.models[m, LEFT] - rate + lost)
        short = max(short, data.models[m, LEFT_NUMBER] - held + lost_number)
    if missing > 0:
        # Multiplied, not divided: a division can raise, which prevents inlining of all calls.
        cells = int(missing * data.values[m, PER_CELL] + UP)
        value -= data.lacking[m, min(cells, data.lacking.shape[1] - 1)]
    if short > 0:
        value -= data.values[m, SHORT] * short
    return float(value)


@plain
def _most_lost(
    data: Data, state: SearchState, m: int, d: int, more: int, number: int
) -> tuple[int, int]:
    """Return the most rate, and the most replicas, that one fault domain holds of model m."""
    row = data.models[m, SPREAD]
    here = data.domain_of[row, d]
    rate, held = 0, 0
    for k in range(state.by_domain.shape[1]):
        mine, count = state.by_domain[row, k, 0], state.by_domain[row, k, 1]
        if k == here:
            mine, count = mine + more, count + number
        rate, held = max(rate, mine), max(held, count)
    return rate, held


@plain
def falls_short(data: Data, state: SearchState, m: int) -> bool:
    """Return whether too little of model m would be left if one fault domain were lost."""
    rate, held = _most_lost(data, state, m, 0, 0, 0)
    left, number = state.models[m, GETS] - rate, state.models[m, NUMBER] - held
    return bool(left < data.models[m, LEFT] or number < data.models[m, LEFT_NUMBER])


@plain
def gain_of(data: Data, state: SearchState, m: int, d: int, rate: int, number: int) -> float:
    """Return model m's gain in worth from `rate` more rate and `number` more replicas on d."""
    return worth_of(data, state, m, d, rate, number) - worth_of(data, state, m, d, 0, 0)


@plain
def give(data: Data, state: SearchState, m: int, d: int, rate: int, number: int) -> None:
    """Give model m `rate` more rate from `number` more replicas on device d."""
    state.worth[0] += gain_of(data, state, m, d, rate, number)
    state.models[m, GETS] += rate
    state.models[m, NUMBER] += number
    row = data.models[m, SPREAD]
    if row >= 0:
        k = data.domain_of[row, d]
        state.by_domain[row, k, 0] += rate
        state.by_domain[row, k, 1] += number


@plain
def level_of(data: Data, q: int, count: int, busy: int, crowd: int, lowest: int, top: int) -> int:
    """Return the lowest level that holds `count` replicas with this load and kappa; -1 if none."""
    for level in range(lowest, top + 1):
        row = data.limit_of[q, level, crowd]
        if row >= 0 and busy <= data.busy_limit[row, count]:
            return level
    return -1


@plain
def fits(data: Data, state: SearchState, d: int, e: int) -> int:
    """Return the level of device d with one more replica of entry e; -1 if it does not fit."""
    q = data.entries[e, SITE]
    here = state.devices[d, HELD_AS]
    if here != q and (here != EMPTY or data.sites[q, CLASS] != data.device_class[d]):
        return -1
    count = state.devices[d, COUNT] + 1
    if count > data.sites[q, MOST_ITEMS]:
        return -1
    for r in range(data.pull.shape[1]):
        used = state.devices[d, USED + r] + data.entries[e, TAKES + r]
        if used > data.sites[q, CAPACITY + r]:
            return -1
    if data.sites[q, TABLE] >= 0:
        code = state.devices[d, HELD_CODE] + data.entries[e, CODE]
        if code >= data.sites[q, TABLE_SIZE] or not data.tables[data.sites[q, TABLE] + code]:
            return -1
    for k in range(data.pool_start[d], data.pool_start[d + 1]):
        pool = data.pool_list[k]
        if state.pool[pool] + data.entry_pool[e, data.pool_kind[pool]] > data.pool_capacity[pool]:
            return -1
    if data.has_avoid and not _welcome(data, state, d, data.entries[e, MODEL]):
        return -1
    crowd, top, lowest = data.entries[e, KAPPA], data.entries[e, TOP], 0
    if count > 1:
        crowd, top = max(crowd, state.devices[d, CROWD]), min(top, state.devices[d, BEARS])
        lowest = state.devices[d, LEVEL]
    busy = state.devices[d, BUSY] + data.entries[e, LOAD]
    return level_of(data, q, count, busy, crowd, lowest, top)


@plain
def _welcome(data: Data, state: SearchState, d: int, m: int) -> bool:
    for i in range(state.devices[d, COUNT]):
        if data.avoid[m, data.entries[state.items[d, i], MODEL]]:
            return False
    return True


@plain
def worth_beside(data: Data, state: SearchState, d: int, e: int, level: int) -> float:
    """Return the worth of one more replica of entry e on device d at the resulting level."""
    m = data.entries[e, MODEL]
    count, now = state.devices[d, COUNT], state.devices[d, LEVEL]
    if count == 0 or level == now:
        return gain_of(data, state, m, d, data.rates[e, level], 1)
    state.models[m, CHANGE] = data.rates[e, level]
    for i in range(count):
        f = state.items[d, i]
        state.models[data.entries[f, MODEL], CHANGE] += data.rates[f, level] - data.rates[f, now]
    total = gain_of(data, state, m, d, state.models[m, CHANGE], 1)
    state.models[m, CHANGE] = 0
    for i in range(count):
        n = data.entries[state.items[d, i], MODEL]
        if state.models[n, CHANGE] != 0:
            total += gain_of(data, state, n, d, state.models[n, CHANGE], 0)
            state.models[n, CHANGE] = 0
    return total


@plain
def _relevel(data: Data, state: SearchState, d: int, level: int) -> None:
    """Run a device at another level."""
    now = state.devices[d, LEVEL]
    if now == level:
        return
    for i in range(state.devices[d, COUNT]):
        e = state.items[d, i]
        give(data, state, data.entries[e, MODEL], d, data.rates[e, level] - data.rates[e, now], 0)
    state.devices[d, LEVEL] = level


@plain
def _take(data: Data, state: SearchState, d: int, e: int, sign: int) -> None:
    """Add (+1) or subtract (-1) the resources that one replica of entry e takes."""
    for r in range(data.pull.shape[1]):
        state.devices[d, USED + r] += sign * data.entries[e, TAKES + r]
    state.devices[d, COUNT] += sign
    state.devices[d, BUSY] += sign * data.entries[e, LOAD]
    state.devices[d, HELD_CODE] += sign * data.entries[e, CODE]
    for k in range(data.pool_start[d], data.pool_start[d + 1]):
        pool = data.pool_list[k]
        state.pool[pool] += sign * data.entry_pool[e, data.pool_kind[pool]]
    state.cost[0] += sign * data.entries[e, COST]


@plain
def add(data: Data, state: SearchState, d: int, e: int, level: int) -> None:
    """Put a replica onto a device, which then runs at `level`, as returned by `fits`."""
    count = state.devices[d, COUNT]
    crowd, bears = data.entries[e, KAPPA], data.entries[e, TOP]
    if count == 0:
        state.devices[d, HELD_AS] = data.entries[e, SITE]
        state.cost[0] += data.group_cost[data.device_group[d]]
        state.devices[d, LEVEL] = level
    else:
        _relevel(data, state, d, level)
        crowd, bears = max(crowd, state.devices[d, CROWD]), min(bears, state.devices[d, BEARS])
    state.devices[d, CROWD], state.devices[d, BEARS] = crowd, bears
    state.items[d, count] = e
    _take(data, state, d, e, 1)
    give(data, state, data.entries[e, MODEL], d, data.rates[e, level], 1)


@plain
def remove(data: Data, state: SearchState, d: int, i: int) -> None:
    """Take the i-th replica off a device; removing the last one closes the device."""
    e = state.items[d, i]
    level = state.devices[d, LEVEL]
    give(data, state, data.entries[e, MODEL], d, -data.rates[e, level], -1)
    _take(data, state, d, e, -1)
    count = state.devices[d, COUNT]
    state.items[d, i] = state.items[d, count]
    if count == 0:
        _close(data, state, d)
        return
    crowd, bears = 0, 1 << 30
    for k in range(count):
        f = state.items[d, k]
        crowd, bears = max(crowd, data.entries[f, KAPPA]), min(bears, data.entries[f, TOP])
    state.devices[d, CROWD], state.devices[d, BEARS] = crowd, bears
    q, busy = state.devices[d, HELD_AS], state.devices[d, BUSY]
    lower = level_of(data, q, count, busy, crowd, 0, level)
    if lower >= 0:
        _relevel(data, state, d, lower)


@plain
def _close(data: Data, state: SearchState, d: int) -> None:
    state.devices[d, HELD_AS] = EMPTY
    state.cost[0] -= data.group_cost[data.device_group[d]]


@plain
def clear(data: Data, state: SearchState, d: int) -> None:
    """Remove all replicas from a device."""
    count, level = state.devices[d, COUNT], state.devices[d, LEVEL]
    if count == 0:
        return
    for i in range(count):
        e = state.items[d, i]
        give(data, state, data.entries[e, MODEL], d, -data.rates[e, level], -1)
        _take(data, state, d, e, -1)
    _close(data, state, d)


@plain
def note(state: SearchState, journal: UndoJournal, d: int, step: int) -> None:
    """Record device d as it is, once per step."""
    if journal.mark[d] == step:
        return
    journal.mark[d] = step
    at = journal.size[0]
    journal.size[0] += 1
    journal.devices[at] = d
    journal.held[at] = state.devices[d, COUNT]
    for i in range(state.devices[d, COUNT]):
        journal.items[at, i] = state.items[d, i]


@plain
def undo(data: Data, state: SearchState, journal: UndoJournal) -> None:
    """Undo all changes since the journal was emptied."""
    for at in range(journal.size[0]):
        clear(data, state, journal.devices[at])
    for at in range(journal.size[0]):
        _fill(data, state, journal, at)
    journal.size[0] = 0


@plain
def _fill(data: Data, state: SearchState, journal: UndoJournal, at: int) -> None:
    """Restore a device's recorded contents; the device is empty."""
    d, count = journal.devices[at], journal.held[at]
    if count == 0:
        return
    crowd, bears = 0, 1 << 30
    for i in range(count):
        e = journal.items[at, i]
        state.items[d, i] = e
        _take(data, state, d, e, 1)
        crowd, bears = max(crowd, data.entries[e, KAPPA]), min(bears, data.entries[e, TOP])
    q = data.entries[state.items[d, 0], SITE]
    level = level_of(data, q, count, state.devices[d, BUSY], crowd, 0, bears)
    state.devices[d, HELD_AS], state.devices[d, LEVEL] = q, level
    state.devices[d, CROWD], state.devices[d, BEARS] = crowd, bears
    state.cost[0] += data.group_cost[data.device_group[d]]
    for i in range(count):
        e = state.items[d, i]
        give(data, state, data.entries[e, MODEL], d, data.rates[e, level], 1)


@plain
def copy_state(source: SearchState, target: SearchState) -> None:
    """Make the target equal to the source."""
    _copy_rows(source.devices, target.devices)
    _copy_rows(source.items, target.items)
    _copy_rows(source.models, target.models)
    for k in range(source.pool.shape[0]):
        target.pool[k] = source.pool[k]
    for k in range(source.by_domain.shape[0]):
        _copy_rows(source.by_domain[k], target.by_domain[k])
    target.cost[0] = source.cost[0]
    target.worth[0] = source.worth[0]


@plain
def _copy_rows(source: Ints, target: Ints) -> None:
    for i in range(source.shape[0]):
        for k in range(source.shape[1]):
            target[i, k] = source[i, k]
