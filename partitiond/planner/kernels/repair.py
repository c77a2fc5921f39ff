"""Ruin and recreate that keeps what runs where it runs, but for a budget of moves.

The same steps as in `search`, from a plan that keeps nearly everything: a few devices are emptied,
what is lost is served again. A step after which more replicas have left their device than allowed
is taken back. Where cost counts, each device that can be spared lowers what devices may cost.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from partitiond.planner.kernels import kernel
from partitiond.planner.kernels.search import Rules, Scratch, lacks, serve, shrink
from partitiond.planner.kernels.state import (
    COUNT,
    FROZEN,
    MODEL,
    Data,
    Journal,
    State,
    below,
    copy_state,
    note,
    remove,
    undo,
    uniform,
)

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Words = NDArray[np.uint64]

TINY = 1e-9
PICKS = 6
"""Devices of which the one is emptied that keeps least of what runs there."""


class Here(NamedTuple):
    """What runs where.

    Attributes:
        item: (E,) item of each entry: what an engine is, whatever the level it runs at.
        runs: (D, most) items that run on each device, the first `number` of a row.
        number: (D,)
        gone: (D,) replicas that have left each device; kept by the search.
    """

    item: Ints
    runs: Ints
    number: Ints
    gone: Ints


@kernel
def gone_from(state: State, here: Here, d: int) -> int:
    """Replicas that run on device d and are not on it in this answer."""
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


@kernel
def count_gone(state: State, here: Here) -> int:
    """Fill `gone` for all devices; returns the sum."""
    total = 0
    for d in range(here.number.shape[0]):
        here.gone[d] = gone_from(state, here, d)
        total += here.gone[d]
    return total


@kernel
def improve(
    data: Data,
    state: State,
    best: State,
    journal: Journal,
    scratch: Scratch,
    rng: Words,
    rules: Rules,
    budget: Ints,
    here: Here,
    most_gone: int,
    steps: int,
) -> int:
    """Take some steps; returns how often `best` became better.

    Args:
        data, state, best, journal, scratch, rng, rules, budget: as in `search.search`.
        here: what runs where.
        most_gone: how many replicas may have left their device, in sum.
        steps: how many.
    """
    found = 0
    total = count_gone(state, here)
    for _ in range(steps):
        scratch.counter[0] += 1
        step = scratch.counter[0]
        journal.size[0] = 0
        before, cost = state.worth[0], state.cost[0]
        listed = _empty_some(data, state, journal, scratch, rng, here, step)
        listed = _wanting(data, state, scratch, rng, rules.wanting, step, listed)
        for i in range(listed):
            serve(data, state, journal, scratch, rng, rules, budget[0], scratch.models[i], step)
        after = total
        for at in range(journal.size[0]):
            d = journal.devices[at]
            after += gone_from(state, here, d) - here.gone[d]
        loss = before - state.worth[0]
        # Where nothing is gained, what moves less, or costs less, is better.
        even = abs(loss) <= TINY and (after > total or state.cost[0] > cost)
        worse = loss > TINY or even
        if after > max(most_gone, total) or (
            worse and -rules.temperature * np.log(uniform(rng) + 1e-300) < max(loss, TINY)
        ):
            undo(data, state, journal)
            continue
        for at in range(journal.size[0]):
            d = journal.devices[at]
            here.gone[d] = gone_from(state, here, d)
        total = after
        if total > most_gone:
            continue
        if rules.by_cost:
            if state.worth[0] >= -TINY:
                copy_state(state, best)
                found += 1
                budget[0] = state.cost[0] - 1
                shrink(data, state, rng, budget[0])
                total = count_gone(state, here)
        elif state.worth[0] > best.worth[0] + TINY:
            copy_state(state, best)
            found += 1
    return found


@kernel
def _empty_some(
    data: Data, state: State, journal: Journal, scratch: Scratch, rng: Words, here: Here, step: int
) -> int:
    """Take some replicas off one to three devices; returns how many models are listed."""
    devices = state.devices.shape[0]
    listed = 0
    for _ in range(1 + below(rng, 3)):
        chosen, least = -1, 1 << 60
        for _ in range(PICKS):
            d = below(rng, devices)
            if state.devices[d, COUNT] > 0 and journal.mark[d] != step:
                stays = state.devices[d, COUNT] - here.gone[d] + below(rng, 3)
                if stays < least:
                    chosen, least = d, stays
        if chosen < 0:
            continue
        note(state, journal, chosen, step)
        whole = uniform(rng) < 0.5
        for i in range(state.devices[chosen, COUNT] - 1, -1, -1):
            m = data.entries[state.items[chosen, i], MODEL]
            if data.models[m, FROZEN] or not (whole or uniform(rng) < 0.5):
                continue
            remove(data, state, chosen, i)
            if scratch.mark[m] != step:
                scratch.mark[m] = step
                scratch.models[listed] = m
                listed += 1
    return listed


@kernel
def _wanting(
    data: Data, state: State, scratch: Scratch, rng: Words, most: int, step: int, listed: int
) -> int:
    """Add some of the models that lack something, from a random one on."""
    models = state.models.shape[0]
    start, end = below(rng, models), min(models, listed + most)
    for k in range(models):
        if listed >= end:
            break
        m = (start + k) % models
        if not data.models[m, FROZEN] and scratch.mark[m] != step and lacks(data, state, m):
            scratch.mark[m] = step
            scratch.models[listed] = m
            listed += 1
    return listed
