"""The loads of all devices as arrays: what fits, adding, removing, undoing.

`Data` is the question and never changes during a search, `State` is one answer. A change of any
kind costs a handful of integer operations, whatever the size of the instance. A `Journal` keeps
what a step has touched, so that a step that made things worse is taken back in the same time.

What belongs together lies together: one row for each place, entry, model and device, with the
columns below. (One array for each column took four times as long to compile and ran slower.)

What a model gets is worth

    slope x min(rate, limit) - lacking[ceil((need - rate) / cell)] - short x (replicas missing)

Where goodput counts, `slope` is the weight and `lacking` is 0; where everything has to be served
for the least cost, `lacking` is the price of the cheapest replicas that cover what is missing, so
that the sum over all models says how much of the devices is still to be found.
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
"""Place of a device that holds nothing."""

# Columns of Data.places; the resources' capacities follow.
GROUP: Final = 0
MOST_ITEMS: Final = 1
TABLE: Final = 2
"""Offset of the MIG table, -1 without one."""
TABLE_SIZE: Final = 3
CAPACITY: Final = 4

# Columns of Data.entries; what it uses of the resources follows.
MODEL: Final = 0
PLACE: Final = 1
RATE: Final = 2
LOAD: Final = 3
CODE: Final = 4
COST: Final = 5
TAKES: Final = 6

# Columns of Data.models.
NEED: Final = 0
LEAST: Final = 1
MOST: Final = 2
LIMIT: Final = 3
FROZEN: Final = 4
FIRST: Final = 5
"""Entries of the model are Data.model_entry[FIRST..END]."""
END: Final = 6

# Columns of Data.values.
SLOPE: Final = 0
SHORT: Final = 1
PER_CELL: Final = 2
"""Cells of `lacking` to one unit of rate."""
UP: Final = 0.999999
"""Rounds cells up, but not those that are whole but for the rounding of floating point."""

# Columns of State.devices; what is used of the resources follows.
HELD_AS: Final = 0
COUNT: Final = 1
BUSY: Final = 2
HELD_CODE: Final = 3
USED: Final = 4

# Columns of State.models.
GETS: Final = 0
NUMBER: Final = 1


class Data(NamedTuple):
    """The question; see `arrays.Problem` for what is not explained here.

    Attributes:
        places: (P, 4 + R) columns above.
        entries: (E, 6 + R)
        models: (M, 7)
        values: (M, 3)
        lacking: (M, cells) price of lacking so many cells of rate.
        price: (E,) what an entry takes of devices, in devices' cost.
        pull: (P, R) worth of one unit of a free resource, to tell which device is fuller.
        pool_start, pool_list: pools of device d are pool_list[pool_start[d]..[d + 1]].
        has_avoid: 1 where any two models avoid each other.
    """

    places: Ints
    busy_limit: Ints
    tables: Bits
    entries: Ints
    entry_pool: Ints
    models: Ints
    model_entry: Ints
    values: Floats
    lacking: Floats
    price: Floats
    pull: Floats
    avoid: Bits
    device_group: Ints
    group_cost: Ints
    pool_capacity: Ints
    pool_start: Ints
    pool_list: Ints
    has_avoid: int


class State(NamedTuple):
    """One answer: what is on each device, and the sums that tell what still fits.

    Attributes:
        devices: (D, 4 + R) how a device is run, and what is used of it.
        items: (D, most) entries on it, the first COUNT of a row.
        models: (M, 2) rate and number of replicas.
        pool: (L,) what is used of each pool.
        cost: (1,) of devices in use and of what their replicas cost on top.
        worth: (1,) sum over all models of what they get.
    """

    devices: Ints
    items: Ints
    models: Ints
    pool: Ints
    cost: Ints
    worth: Floats


class Journal(NamedTuple):
    """What a step has touched, as it was before.

    Attributes:
        mark: (D,) step in which a device was last noted.
        devices, held, items: the devices noted in this step, the number and entries they held.
        size: (1,) how many are noted.
    """

    mark: Ints
    devices: Ints
    size: Ints
    held: Ints
    items: Ints


@plain
def uniform(rng: Words) -> float:
    """A number in 0..1; xorshift64, so that a seed gives the same numbers everywhere."""
    x = rng[0]
    x ^= x << np.uint64(13)
    x ^= x >> np.uint64(7)
    x ^= x << np.uint64(17)
    rng[0] = x
    return float(x >> np.uint64(11)) / 9007199254740992.0


@plain
def below(rng: Words, count: int) -> int:
    """A whole number in 0..count - 1."""
    return min(count - 1, int(uniform(rng) * count))


@plain
def worth_of(data: Data, m: int, rate: int, number: int) -> float:
    """What it is worth that model m gets this rate from this number of replicas."""
    value = data.values[m, SLOPE] * min(rate, data.models[m, LIMIT])
    missing = data.models[m, NEED] - rate
    if missing > 0:
        # Multiplied, not divided: a division can raise, and that keeps all calls from inlining.
        value -= data.lacking[m, int(missing * data.values[m, PER_CELL] + UP)]
    if number < data.models[m, LEAST]:
        value -= data.values[m, SHORT] * (data.models[m, LEAST] - number)
    return float(value)


@plain
def gain_of(data: Data, state: State, e: int) -> float:
    """What one more replica of entry e would be worth to its model."""
    m = data.entries[e, MODEL]
    rate, number = state.models[m, GETS], state.models[m, NUMBER]
    more = worth_of(data, m, rate + data.entries[e, RATE], number + 1)
    return more - worth_of(data, m, rate, number)


@plain
def fits(data: Data, state: State, d: int, e: int) -> bool:
    """Whether one more replica of entry e may be put onto device d."""
    p = data.entries[e, PLACE]
    here = state.devices[d, HELD_AS]
    if here != p and (here != EMPTY or data.places[p, GROUP] != data.device_group[d]):
        return False
    for r in range(data.pull.shape[1]):
        used = state.devices[d, USED + r] + data.entries[e, TAKES + r]
        if used > data.places[p, CAPACITY + r]:
            return False
    n = state.devices[d, COUNT] + 1
    if n > data.places[p, MOST_ITEMS]:
        return False
    if state.devices[d, BUSY] + data.entries[e, LOAD] > data.busy_limit[p, n]:
        return False
    if data.places[p, TABLE] >= 0:
        code = state.devices[d, HELD_CODE] + data.entries[e, CODE]
        if code >= data.places[p, TABLE_SIZE] or not data.tables[data.places[p, TABLE] + code]:
            return False
    if data.has_avoid and not _welcome(data, state, d, data.entries[e, MODEL]):
        return False
    for k in range(data.pool_start[d], data.pool_start[d + 1]):
        pool = data.pool_list[k]
        if state.pool[pool] + data.entry_pool[e, pool] > data.pool_capacity[pool]:
            return False
    return True


@plain
def _welcome(data: Data, state: State, d: int, m: int) -> bool:
    for i in range(state.devices[d, COUNT]):
        if data.avoid[m, data.entries[state.items[d, i], MODEL]]:
            return False
    return True


@plain
def _change(data: Data, state: State, d: int, e: int, sign: int) -> None:
    """Add (+1) or take away (-1) what one replica of entry e takes and gives."""
    for r in range(data.pull.shape[1]):
        state.devices[d, USED + r] += sign * data.entries[e, TAKES + r]
    state.devices[d, COUNT] += sign
    state.devices[d, BUSY] += sign * data.entries[e, LOAD]
    state.devices[d, HELD_CODE] += sign * data.entries[e, CODE]
    for k in range(data.pool_start[d], data.pool_start[d + 1]):
        pool = data.pool_list[k]
        state.pool[pool] += sign * data.entry_pool[e, pool]
    m = data.entries[e, MODEL]
    before = worth_of(data, m, state.models[m, GETS], state.models[m, NUMBER])
    state.models[m, GETS] += sign * data.entries[e, RATE]
    state.models[m, NUMBER] += sign
    after = worth_of(data, m, state.models[m, GETS], state.models[m, NUMBER])
    state.worth[0] += after - before
    state.cost[0] += sign * data.entries[e, COST]


@plain
def add(data: Data, state: State, d: int, e: int) -> None:
    """Put a replica onto a device; the caller has asked `fits`."""
    count = state.devices[d, COUNT]
    if count == 0:
        state.devices[d, HELD_AS] = data.entries[e, PLACE]
        state.cost[0] += data.group_cost[data.device_group[d]]
    state.items[d, count] = e
    _change(data, state, d, e, 1)


@plain
def remove(data: Data, state: State, d: int, i: int) -> None:
    """Take the i-th replica off a device; the last one closes it."""
    e = state.items[d, i]
    _change(data, state, d, e, -1)
    count = state.devices[d, COUNT]
    state.items[d, i] = state.items[d, count]
    if count == 0:
        state.devices[d, HELD_AS] = EMPTY
        state.cost[0] -= data.group_cost[data.device_group[d]]


@plain
def note(state: State, journal: Journal, d: int, step: int) -> None:
    """Remember device d as it is, once a step."""
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
def undo(data: Data, state: State, journal: Journal) -> None:
    """Take back everything since the journal was emptied."""
    for at in range(journal.size[0]):
        d = journal.devices[at]
        for i in range(state.devices[d, COUNT] - 1, -1, -1):
            remove(data, state, d, i)
    for at in range(journal.size[0]):
        for i in range(journal.held[at]):
            add(data, state, journal.devices[at], journal.items[at, i])
    journal.size[0] = 0


@plain
def copy_state(source: State, target: State) -> None:
    """Make the target equal to the source."""
    _copy_rows(source.devices, target.devices)
    _copy_rows(source.items, target.items)
    _copy_rows(source.models, target.models)
    for k in range(source.pool.shape[0]):
        target.pool[k] = source.pool[k]
    target.cost[0] = source.cost[0]
    target.worth[0] = source.worth[0]


@plain
def _copy_rows(source: Ints, target: Ints) -> None:
    for i in range(source.shape[0]):
        for k in range(source.shape[1]):
            target[i, k] = source[i, k]
