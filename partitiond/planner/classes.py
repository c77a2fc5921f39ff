"""The problem as linear programs see it: alike devices together.

Groups that differ only in the host whose pools they draw from become one class, and the pools of
hosts with the same devices and capacities one pool with the sum of theirs. Where devices and hosts
are alike, that does not loosen a bound.
"""

import dataclasses
import hashlib
from typing import Final

import numpy as np

from partitiond.planner.arrays import Problem
from partitiond.planner.sites import Ints

MANY: Final = 1_000_000
"""`need_max` from here on does not limit."""


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Classes:
    """Alike groups together.

    Attributes:
        entries: the problem with one group a class; its pools are the merged ones.
        class_of: (G,) the class of each group.
        place_of: (P',) the place in the problem of each place of `entries`.
        entry_of: (E,) the entry in `entries` of each entry in the problem.
    """

    entries: Problem
    class_of: Ints
    place_of: Ints
    entry_of: Ints


def make_classes(problem: Problem) -> Classes:
    """Put alike groups together."""
    bare = [_group_key(problem, g) for g in range(len(problem.group_count))]
    pools = _pool_keys(problem, bare)
    classes = _alike(problem, bare, pools)
    stands = np.array([members[0] for members in classes], dtype=np.int64)
    class_of = np.zeros(len(problem.group_count), dtype=np.int64)
    for c, members in enumerate(classes):
        class_of[members] = c
    place_of = np.flatnonzero(np.isin(problem.place_group, stands))
    entries = _entries(problem, pools, stands, class_of, place_of)
    return Classes(entries, class_of, place_of, _entry_of(problem, class_of, place_of))


def _alike(problem: Problem, bare: list[bytes], pools: list[str]) -> list[list[int]]:
    """Groups by what they hold and what their pools are like."""
    alike: dict[object, list[int]] = {}
    for g, key in enumerate(bare):
        drawn = tuple(sorted(pools[p] for p in _pools_of_group(problem, g)))
        alike.setdefault((key, drawn), []).append(g)
    return list(alike.values())


def _pools_of_group(problem: Problem, group: int) -> list[int]:
    return list(problem.instance.groups[group].pools)


def _group_key(problem: Problem, group: int) -> bytes:
    """All that is asked of a group here but its number of devices and its pools."""
    digest = hashlib.blake2b(str(int(problem.group_cost[group])).encode())
    for place in np.flatnonzero(problem.place_group == group):
        mine = slice(int(problem.place_start[place]), int(problem.place_start[place + 1]))
        for part in (
            problem.capacity[place],
            problem.max_items[place : place + 1],
            problem.busy_limit[place],
            problem.geometry[place : place + 1],
            problem.entry_item[mine],
            problem.entry_rate[mine],
            problem.entry_use[mine],
            problem.entry_cost[mine],
        ):
            digest.update(np.ascontiguousarray(part).tobytes())
            digest.update(b"|")
    return digest.digest()


def _pool_keys(problem: Problem, bare: list[bytes]) -> list[str]:
    """Pools with the same key limit the same kind of thing for the same devices."""
    keys = []
    for pool in problem.instance.pools:
        devices = np.flatnonzero(problem.pool_of_device[:, pool.index])
        held = sorted(bare[int(problem.device_group[d])].hex() for d in devices)
        keys.append(f"{pool.kind} {pool.capacity} {' '.join(held)}")
    return keys


def _entries(
    problem: Problem, keys: list[str], stands: Ints, class_of: Ints, place_of: Ints
) -> Problem:
    """One group a class, with merged pools."""
    merged = sorted(set(keys))
    starts = problem.place_start
    picked = np.concatenate(
        [np.arange(starts[p], starts[p + 1]) for p in place_of] or [np.empty(0, np.int64)]
    ).astype(np.int64)
    new_place = np.repeat(np.arange(len(place_of)), [starts[p + 1] - starts[p] for p in place_of])
    pool_use = np.zeros((len(picked), len(merged)), dtype=np.int64)
    for at, place in enumerate(place_of):
        mine = new_place == at
        for p in _pools_of_group(problem, int(problem.place_group[place])):
            pool_use[mine, merged.index(keys[p])] += problem.entry_pool[picked[mine], p]
    count = np.zeros(len(stands), dtype=np.int64)
    np.add.at(count, class_of, problem.group_count)
    capacity = np.array(
        [sum(int(c) for c, k in zip(problem.pool_capacity, keys, strict=True) if k == m)
         for m in merged], dtype=np.int64,
    )  # fmt: skip
    reduced = dataclasses.replace(
        problem,
        place_group=class_of[problem.place_group[place_of]],
        place_option=problem.place_option[place_of],
        capacity=problem.capacity[place_of],
        max_items=problem.max_items[place_of],
        busy_limit=problem.busy_limit[place_of],
        geometry=problem.geometry[place_of],
        geometry_size=problem.geometry_size[place_of],
        entry_pool=problem.entry_pool[:, :0],
        group_count=count,
        group_cost=problem.group_cost[stands],
        pool_capacity=capacity,
    )
    chosen = _pick(reduced, picked, new_place, len(place_of))
    return dataclasses.replace(chosen, entry_pool=pool_use)


def _entry_of(problem: Problem, class_of: Ints, place_of: Ints) -> Ints:
    """Entries of the same place of groups of one class come in the same order."""
    lengths = np.diff(problem.place_start)
    start_of: dict[tuple[int, int], int] = {}
    at = 0
    for place in place_of:
        key = (int(class_of[problem.place_group[place]]), int(problem.place_option[place]))
        start_of[key] = at
        at += int(lengths[place])
    found = np.empty(len(problem.entry_item), dtype=np.int64)
    for place, length in enumerate(lengths):
        key = (int(class_of[problem.place_group[place]]), int(problem.place_option[place]))
        start = int(problem.place_start[place])
        found[start : start + length] = start_of[key] + np.arange(length)
    return found


def _pick(
    problem: Problem, picked: Ints, new_place: Ints | None = None, places: int | None = None
) -> Problem:
    """The problem with some of its entries, which are sorted by place."""
    place = problem.entry_place[picked] if new_place is None else new_place
    number = len(problem.place_group) if places is None else places
    start = np.searchsorted(place, np.arange(number + 1)).astype(np.int64)
    return dataclasses.replace(
        problem,
        place_start=start,
        entry_place=place.astype(np.int64),
        entry_item=problem.entry_item[picked],
        entry_model=problem.entry_model[picked],
        entry_rate=problem.entry_rate[picked],
        entry_use=problem.entry_use[picked],
        entry_busy=problem.entry_busy[picked],
        entry_code=problem.entry_code[picked],
        entry_cost=problem.entry_cost[picked],
        entry_pool=problem.entry_pool[picked],
    )
