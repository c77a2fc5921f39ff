"""Whether covering sets of all models, worth enough together, can be packed: by trying all.

One covering set of each model is chosen, models with few of them first. A choice ends where what
it has lost already, or what it takes of the devices, leaves no hope; a complete one is packed,
device by device, where no device may hold much less than it could.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from partitiond.planner.kernels import plain
from partitiond.planner.kernels.state import COUNT, TAKES, USED, Data, State, add, fits, remove

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

ROUNDING = 1e-7
NOWHERE = -1
CLOSED = -1
GAVE_UP = -1
NONE = 0
FOUND = 1


class Choices(NamedTuple):
    """Covering sets, model by model.

    Attributes:
        start: (M + 1,) sets of the k-th model are start[k]..start[k + 1].
        loss: (S,) how much less a set is worth beyond its price than the model's best one.
        price: (S,) of its replicas.
        first: (S + 1,) its entries are entries[first[s]..first[s + 1]].
        entries: all of them.
        low, high: (M + 1,) least and largest price of the sets of the k-th and later models.
        rank: (E,) place of an entry in the order of falling price.
        value: (E,) price of one replica.
        best: (D,) what each device can hold at most, at the prices.
        most: (D, R) largest capacity of each device, however it is run.
        widest: replicas that any device holds at most.
        alike: 1 where all devices are of one kind.
    """

    start: Ints
    loss: Floats
    price: Floats
    first: Ints
    entries: Ints
    low: Floats
    high: Floats
    rank: Ints
    value: Floats
    best: Floats
    most: Ints
    widest: int
    alike: int


class Space(NamedTuple):
    """What packing writes to; longer than the replicas and devices together.

    Attributes:
        spot: device of each replica.
        item, worth, waste: the replica placed in each step, or that a device was closed, and what
            the device was worth and could be wasted before it.
        spare: (R,) what all devices have beyond what is to be packed.
    """

    spot: Ints
    item: Ints
    worth: Floats
    waste: Floats
    spare: Ints


@plain
def combine(
    data: Data,
    state: State,
    choices: Choices,
    whole: float,
    room: float,
    at: Ints,
    items: Ints,
    space: Space,
    steps: Ints,
) -> int:
    """Find a choice that loses at most `room` and can be packed.

    Args:
        data: the question.
        state: an empty answer; holds the packing where one is found.
        choices: covering sets.
        whole: worth of what all devices can hold.
        room: what the chosen sets may lose, together with what devices hold less than `whole`.
        at: (M + 1,) space for the set chosen of each model.
        items: space for the replicas of a choice.
        space: for packing it.
        steps: (2,) how many choices, and how many placements, may be tried; counts down.

    Returns:
        FOUND, NONE, or GAVE_UP where the steps were used up.
    """
    models = choices.start.shape[0] - 1
    lost, taken, k = 0.0, 0.0, 0
    at[0] = choices.start[0] - 1
    while k >= 0:
        if at[k] >= choices.start[k]:
            lost -= choices.loss[at[k]]
            taken -= choices.price[at[k]]
        at[k] += 1
        if at[k] >= choices.start[k + 1]:
            at[k] = choices.start[k] - 1
            k -= 1
            continue
        steps[0] -= 1
        if steps[0] <= 0:
            return GAVE_UP
        lost += choices.loss[at[k]]
        taken += choices.price[at[k]]
        if (
            lost > room
            or taken + choices.low[k + 1] > whole
            or taken + choices.high[k + 1] < whole - room + lost
        ):
            continue
        if k + 1 < models:
            k += 1
            at[k] = choices.start[k] - 1
            continue
        count = _collect(choices, at, models, items)
        for i in range(count):
            space.spot[i] = NOWHERE
        if not _spares(data, choices, items, count, space.spare):
            continue
        waste = whole - taken + ROUNDING
        packed = _pack(data, state, choices, items, count, space, steps, waste)
        if packed == GAVE_UP:
            _clear(data, state)
        if packed != NONE:
            return packed
    return NONE


@plain
def _collect(choices: Choices, at: Ints, models: int, items: Ints) -> int:
    """The replicas of a choice, in the order in which they are packed."""
    count = 0
    for k in range(models):
        for j in range(choices.first[at[k]], choices.first[at[k] + 1]):
            e, i = choices.entries[j], count
            while i > 0 and choices.rank[items[i - 1]] > choices.rank[e]:
                items[i] = items[i - 1]
                i -= 1
            items[i] = e
            count += 1
    return count


@plain
def _spares(data: Data, choices: Choices, items: Ints, count: int, spare: Ints) -> bool:
    """Work out what all devices have beyond the replicas; whether it is enough at all."""
    for r in range(spare.shape[0]):
        spare[r] = 0
        for d in range(choices.most.shape[0]):
            spare[r] += choices.most[d, r]
        for i in range(count):
            spare[r] -= data.entries[items[i], TAKES + r]
        if spare[r] < 0:
            return False
    return True


@plain
def _spared(state: State, choices: Choices, spare: Ints, d: int) -> bool:
    """Whether the devices up to d leave no more unused than there is to spare."""
    for r in range(spare.shape[0]):
        unused = 0
        for other in range(d + 1):
            unused += choices.most[other, r] - state.devices[other, USED + r]
        if unused > spare[r]:
            return False
    return True


@plain
def _pack(
    data: Data,
    state: State,
    choices: Choices,
    items: Ints,
    count: int,
    space: Space,
    steps: Ints,
    waste: float,
) -> int:
    """Choose what each device holds, one device after the other; depth-first.

    (With a stack of its own: compiled functions that call themselves cannot be kept on disk.)

    Args:
        data, state, choices, items, steps: as above.
        count: replicas in `items`, by falling price.
        space: the stack.
        waste: how much less than they could all devices may hold together.
    """
    spot, devices = space.spot, state.devices.shape[0]
    d, k, worth, depth, left = 0, 0, 0.0, 0, count
    while left > 0:
        steps[1] -= 1
        if steps[1] <= 0:
            return GAVE_UP
        while k < count and spot[k] >= 0:
            k += 1
        room = choices.widest - state.devices[d, COUNT]
        if k < count and worth + room * choices.value[items[k]] >= choices.best[d] - waste:
            if fits(data, state, d, items[k]):
                space.item[depth], space.worth[depth], space.waste[depth] = k, worth, waste
                depth += 1
                add(data, state, d, items[k])
                spot[k] = d
                worth += choices.value[items[k]]
                left -= 1
                k += 1
                continue
            if not (choices.alike and state.devices[d, COUNT] == 0):
                k = _after_equals(items, count, k)
                continue
            # Some device holds it, and all that are still empty are alike: this one has to.
        elif (
            choices.best[d] - worth <= waste
            and d + 1 < devices
            and _spared(state, choices, space.spare, d)
        ):
            space.item[depth], space.worth[depth], space.waste[depth] = CLOSED, worth, waste
            depth += 1
            waste -= choices.best[d] - worth
            d, k, worth = d + 1, 0, 0.0
            continue
        k = -1
        while depth > 0 and k < 0:
            depth -= 1
            worth, waste = space.worth[depth], space.waste[depth]
            if space.item[depth] == CLOSED:
                d -= 1
                continue
            placed = space.item[depth]
            remove(data, state, d, state.devices[d, COUNT] - 1)
            spot[placed] = NOWHERE
            left += 1
            if not (choices.alike and state.devices[d, COUNT] == 0):
                k = _after_equals(items, count, placed)
        if k < 0:
            return NONE
    return FOUND


@plain
def _after_equals(items: Ints, count: int, k: int) -> int:
    """The next replica that is another one; equal ones would only do the same again."""
    e = items[k]
    while k < count and items[k] == e:
        k += 1
    return k


@plain
def _clear(data: Data, state: State) -> None:
    for d in range(state.devices.shape[0]):
        while state.devices[d, COUNT] > 0:
            remove(data, state, d, state.devices[d, COUNT] - 1)
