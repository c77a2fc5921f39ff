"""Holds the arrays of the compiled search that improves a repair."""

import collections
from collections.abc import Mapping
from typing import Final

import numpy as np

from partitiond.planner.arrays import NO_LIMIT, build_problem
from partitiond.planner.greedy import Guide
from partitiond.planner.instance import Instance
from partitiond.planner.kernels.repair import Here, improve
from partitiond.planner.kernels.search import Rules
from partitiond.planner.kernels.state import COUNT, copy_state
from partitiond.planner.neighbourhood import load_packing, make_data, make_space, to_packing
from partitiond.planner.packing import Packing

TEMPERATURE: Final = 0.02
"""Loss at which one step in e is kept, in the price of a usual replica."""
NOISE: Final = 0.2
WANTING: Final = 8
OUTSIDE: Final = 1 << 20
"""Devices looked at for a replica: all."""
NO_BUDGET: Final = 1 << 62


class RepairSearch:
    """One search from a repaired packing.

    Args:
        instance: the question.
        guide: worth of entries.
        packing: where it starts; load i is device i.
        runs: items that run on each device and could stay.
        by_cost: whether everything is to be served, or the weighted rates count.
    """

    def __init__(
        self,
        instance: Instance,
        guide: Guide,
        packing: Packing,
        runs: Mapping[int, collections.Counter[int]],
        *,
        by_cost: bool,
    ) -> None:
        problem = build_problem(instance)
        price = np.array(
            [
                guide.worth[int(i), int(problem.place_group[p]), int(problem.place_option[p])]
                for i, p in zip(problem.entry_item, problem.entry_place, strict=True)
            ],
            dtype=np.float64,
        )
        free = np.where(problem.capacity < NO_LIMIT, np.maximum(problem.capacity, 1), NO_LIMIT)
        self.problem = problem
        self.data = make_data(problem, price, 1.0 / free, by_cost=by_cost)
        self.space = make_space(self.data, instance.request.seed)
        load_packing(problem, self.data, packing, self.space.state)
        copy_state(self.space.state, self.space.best)
        usual = float(np.median(price)) if len(price) else 1.0
        scale = usual if by_cost else _usual_worth(self.space.state.worth[0], packing)
        self.rules = Rules(TEMPERATURE * scale, int(by_cost), NOISE, WANTING, OUTSIDE)
        self.found = 0
        if by_cost:
            self.space.budget[0] = self.space.state.cost[0] - 1
        else:
            self.space.budget[0] = NO_BUDGET
        devices = len(problem.device_group)
        most = max([1, *(sum(items.values()) for items in runs.values())])
        self.here = Here(
            item=problem.entry_item,
            runs=np.zeros((devices, most), dtype=np.int64),
            number=np.zeros(devices, dtype=np.int64),
            gone=np.zeros(devices, dtype=np.int64),
        )
        for index, items in runs.items():
            row = sorted(items.elements())
            self.here.runs[index, : len(row)] = row
            self.here.number[index] = len(row)

    @property
    def stuck(self) -> bool:
        """Whether there is nothing to change."""
        return not len(self.problem.entry_item) or not int(self.space.state.devices[:, COUNT].sum())

    def run(self, most_gone: int, steps: int) -> None:
        """Take some steps in which at most so many running replicas have left their device."""
        space = self.space
        self.found += improve(
            self.data,
            space.state,
            space.best,
            space.journal,
            space.scratch,
            space.rng,
            self.rules,
            space.budget,
            self.here,
            most_gone,
            steps,
        )

    def packing(self) -> Packing | None:
        """The best answer; None where nothing better than the start was found."""
        return to_packing(self.problem, self.space.best) if self.found else None


def _usual_worth(worth: float, packing: Packing) -> float:
    """What one replica is worth on average."""
    return abs(worth) / max(1, sum(packing.counts.values()))
