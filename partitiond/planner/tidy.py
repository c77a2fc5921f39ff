"""Tidiness: free memory in large pieces, without moving anything that runs.

Of plans that serve, cost and move the same, the one whose free memory lies together is better:
the next model, or a larger one, finds a place. What counts is the sum over devices of the square
of the free share of their memory: it grows when a replica goes from an emptier device to a
fuller one.
"""

import collections

from partitiond.planner.instance import Instance
from partitiond.planner.packing import Packing
from partitiond.planner.rules import lonely, may_leave
from partitiond.planner.running import staying_items

MOST_PAIRS = 60_000
"""Pairs of replica and device that are looked at: a tenth of a second."""


def free_squares(packing: Packing) -> float:
    """Sum of the squares of the free shares of memory; larger is tidier."""
    total = 0.0
    for index, load in enumerate(packing.loads):
        memory = packing.group(index).memory_bytes
        if memory > 0:
            total += ((memory - load.memory) / memory) ** 2
    return total


def tidy(instance: Instance, packing: Packing) -> Packing:
    """The packing with what is to be started moved to fuller devices where it fits as well.

    Rates, numbers, costs and what runs stay as they are: a replica only goes to a device of the
    same kind, in use, that is run the same way, and never leaves one empty. Load i is device i
    where something runs (`planner.repair`); where it is not, nothing is known to stay, so the
    caller compares what the two have to load.
    """
    tidied = packing.copy()
    waiting = _to_be_started(instance, packing)
    alike: dict[tuple[int, int | None], list[int]] = collections.defaultdict(list)
    for index in tidied.used():
        alike[tidied.loads[index].group, tidied.loads[index].option].append(index)
    looked = 0
    for index, item in sorted(waiting, key=lambda pair: tidied.loads[pair[0]].memory):
        load = tidied.loads[index]
        others = alike[load.group, load.option]
        looked += len(others)
        if looked > MOST_PAIRS:
            break
        if load.option is not None and len(load.items) > 1:
            _move_to_fuller(tidied, index, item, others)
    tidied.settle()  # a device with less on it may be run at a lower level
    return tidied


def _to_be_started(instance: Instance, packing: Packing) -> list[tuple[int, int]]:
    runs: dict[int, collections.Counter[int]] = collections.defaultdict(collections.Counter)
    for index, item, _ in staying_items(instance):
        runs[index][item] += 1
    return [
        (index, item)
        for index, load in enumerate(packing.loads)
        for item in (collections.Counter(load.items) - runs[index]).elements()
    ]


def _move_to_fuller(packing: Packing, index: int, item: int, others: list[int]) -> None:
    """To the fullest device that holds it, if that leaves the free memory in larger pieces."""
    instance, load = packing.instance, packing.loads[index]
    memory, option = instance.items[item].memory_bytes, load.option
    if not memory or option is None or not may_leave(packing, index, item):
        return
    model = instance.items[item].model
    if model in instance.ties.beyond_device:
        return
    left = load.memory - memory
    fuller = sorted(
        (i for i in others if i != index and packing.loads[i].memory > left),
        key=lambda i: (-packing.loads[i].memory, i),
    )
    for other in fuller:
        if packing.fits_beside(other, item, option) and not lonely(packing, other, model):
            packing.remove(index, item)
            if packing.fits(other, item, option):
                packing.add(other, item, option)
            else:
                packing.add(index, item, option)
            return
