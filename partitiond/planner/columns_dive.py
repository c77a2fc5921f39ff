"""Plans from the column generation: round what is nearly whole, solve again, and so on.

A dive keeps sets of devices first, the nearly whole ones and always some, and lets the linear
program (with a few new columns) answer with the rest; once all devices are whole, covering sets
in the same way. What results is whole on both sides; the flow between slots, which the linear
program gives as whole numbers as well, says which replica goes into which slot.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import numpy as np

from partitiond.planner.arrays import Floats, Ints
from partitiond.planner.bound import round_up
from partitiond.planner.columns_master import Solution
from partitiond.planner.instance import Instance
from partitiond.planner.packing import Packing

if TYPE_CHECKING:
    from partitiond.planner.columns import Columns

WHOLE: Final = 1e-6
NEARLY: Final = 0.9
"""Sets whose number of devices lies so far above a whole one are rounded up at once."""
PARTS: Final = (0.12, 0.04)
"""Part of the fractional sets that is rounded in every step at least, by dive: a larger one is
three times as quick, and costs about half a percent."""
COUNTS: Final = 1e-6
"""Relative difference from which on a value is better."""


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Loaded:
    """What one device of a class holds: place and entries of `Rows.entries`."""

    place: int
    entries: tuple[int, ...]


def dive_again_and_again(
    columns: Columns, deadline: float, on_plan: Callable[[Packing], None], *, dives: int, seed: int
) -> None:
    """A quick dive, a thorough one, and then perturbed ones that end where they are no better.

    Args:
        columns: after `run`.
        deadline: in `time.monotonic()` seconds.
        on_plan: told of every plan.
        dives: how many at most.
        seed: of the perturbations.
    """
    best: float | None = None
    for number in range(dives):
        if time.monotonic() >= deadline or (best is not None and _proven(columns, best)):
            return
        perturbed = 0 if number < len(PARTS) else seed * dives + number
        part = PARTS[min(number, len(PARTS) - 1)]
        packing = dive(columns, deadline, perturbed, part, beat=best)
        if packing is None:
            continue
        on_plan(packing)
        if columns.as_cost:
            if not packing.lacking():
                best = packing.cost() if best is None else min(best, packing.cost())
        else:
            best = max(best or 0.0, packing.goodput())


def _proven(columns: Columns, best: float) -> bool:
    """Whether the best plan meets the bound."""
    bound = columns.bound()
    gap = best - bound if columns.as_cost else bound - best
    return gap <= COUNTS * max(1.0, abs(bound))


def dive(
    columns: Columns,
    deadline: float,
    seed: int = 0,
    part: float = PARTS[-1],
    *,
    beat: float | None = None,
) -> Packing | None:
    """A plan near the master's solution.

    Rules that go beyond one device (`Ties.beyond_device`) are not looked at. Where the time ends
    early, what is not yet whole is rounded as it is, and models may lack something.

    Args:
        columns: after `run`; what the dive keeps is taken back at the end.
        deadline: in `time.monotonic()` seconds.
        seed: 0 rounds the largest parts up; others perturb them.
        part: of the fractional sets that is rounded in every step at least.
        beat: a value; the dive ends where it cannot become better.

    Returns:
        None where nothing is solved in time, or nothing better than `beat` can follow.
    """
    search = _Dive(columns, deadline, seed, part)
    search.beat = beat
    try:
        solution = search.run()
    finally:
        columns.master.free()
    if solution is None:
        return None
    return _packing(columns, _loads(columns, solution))


class _Dive:
    """Keeps more and more of the solution."""

    def __init__(self, columns: Columns, deadline: float, seed: int, part: float) -> None:
        self.part = part
        self.columns, self.master, self.deadline = columns, columns.master, deadline
        self.kept: dict[int, int] = {}
        self.served: set[int] = set()
        self.beat: float | None = None
        self.random = np.random.default_rng(seed) if seed else None

    def _left(self) -> float:
        return self.deadline - time.monotonic()

    def _solve(self) -> Solution | None:
        """Solve, price once at the master's own prices, and solve again if that gave columns."""
        solution = self.master.solve(self._left())
        if solution is None or self._left() <= 0:
            return solution
        if self.master.add(self.columns.evaluator.evaluate(solution.prices)):
            return self.master.solve(self._left())
        return solution

    def run(self) -> Solution | None:
        """Round until devices and covering sets are whole."""
        solution = following = self._solve()
        while following is not None:
            solution = following
            if self._hopeless(solution.value):
                return None
            following = self._round_devices(solution) or self._round_covers(solution)
        return solution

    def _hopeless(self, value: float) -> bool:
        """Whether nothing better than what there is can follow: values only get worse."""
        if self.beat is None:
            return False
        if self.columns.as_cost:
            least = round_up(self.columns.rows.entries, value * (1 - COUNTS))
            return least >= self.beat * (1 - COUNTS)
        return value <= self.beat * (1 + COUNTS)

    def _round_devices(self, solution: Solution) -> Solution | None:
        """Keep whole devices and round some parts up; None where all are whole."""
        whole = np.floor(solution.devices + WHOLE).astype(np.int64)
        for column in np.flatnonzero(whole > 0):
            self._keep(int(column), int(whole[column]))
        parts = solution.devices - whole
        undecided = np.flatnonzero(parts > WHOLE)
        while len(undecided) and self._left() > 0:
            batch = self._chosen(undecided, parts)
            for column in batch:
                self.master.hold_devices(int(column), float(whole[column] + 1))
            following = self._solve()
            if following is not None:
                self.kept |= {int(c): int(whole[c] + 1) for c in batch}
                return following
            # Too many at once, or one that does not go together with what is kept.
            for column in batch:
                most = float(whole[column]) if len(batch) == 1 else math.inf
                self.master.hold_devices(int(column), float(whole[column]), most)
            undecided = undecided[undecided != batch[0]] if len(batch) == 1 else batch[:1]
        return None

    def _keep(self, column: int, least: int) -> None:
        if self.kept.get(column, 0) < least:
            self.kept[column] = least
            self.master.hold_devices(column, float(least))

    def _round_covers(self, solution: Solution) -> Solution | None:
        """Keep whole covering sets and round some parts up; None where all are whole."""
        for column in np.flatnonzero(solution.covers > 1 - WHOLE):
            self._serve(int(column))
        covers = self.master.covers
        undecided = np.array(
            [c for c in np.flatnonzero(solution.covers > WHOLE) if self._is_open(covers[c].model)],
            dtype=np.int64,
        )
        while len(undecided) and self._left() > 0:
            batch = self._one_a_model(self._chosen(undecided, solution.covers))
            for column in batch:
                self.master.hold_cover(int(column), 1.0)
            following = self._solve()
            if following is not None:
                self.served |= {covers[c].model for c in batch}
                return following
            for column in batch:
                self.master.hold_cover(int(column), 0.0, 0.0 if len(batch) == 1 else math.inf)
            undecided = undecided[undecided != batch[0]] if len(batch) == 1 else batch[:1]
        return None

    def _is_open(self, model: int) -> bool:
        return model not in self.served

    def _serve(self, column: int) -> None:
        model = self.master.covers[column].model
        if self._is_open(model):
            self.served.add(model)
            self.master.hold_cover(column, 1.0)

    def _one_a_model(self, chosen: Ints) -> Ints:
        first: dict[int, int] = {}
        for column in chosen:
            first.setdefault(self.master.covers[column].model, int(column))
        return np.array(list(first.values()), dtype=np.int64)

    def _chosen(self, undecided: Ints, parts: Floats) -> Ints:
        """The largest parts: all that are nearly whole, and some at least."""
        merit = parts[undecided]
        if self.random is not None:
            merit = merit * self.random.uniform(0.7, 1.0, len(merit))
        order = undecided[np.argsort(-merit, kind="stable")]
        number = max(1, math.ceil(self.part * len(order)))
        nearly = int((parts[undecided] >= NEARLY).sum())
        # Rounded up together they must not use more devices than their parts add up to.
        room = max(1, math.floor(float(parts[undecided].sum())))
        return np.asarray(order[: min(max(number, nearly), room)])


def _loads(columns: Columns, solution: Solution) -> list[Loaded]:
    """Fill the slots of whole devices with the entries of the covering sets."""
    master, rows = columns.master, columns.rows
    free: list[list[int]] = [[] for _ in rows.most]
    loads: list[tuple[int, list[int]]] = []
    # Columns may have been added since this was solved.
    for number, device in zip(solution.devices, master.devices, strict=False):
        for _ in range(round(float(number))):
            for slot, count in zip(device.rows, device.counts, strict=True):
                free[slot].extend([len(loads)] * count)
            loads.append((device.place, []))
    wanted: list[list[int]] = [[] for _ in rows.most]
    for share, cover in zip(solution.covers, master.covers, strict=False):
        if share > 0.5:
            for entry in cover.entries:
                wanted[rows.slot_of[entry]].append(entry)
    for slot in _from_large(rows.exchange, len(free)):
        for arc in np.flatnonzero(rows.exchange[:, 0] == slot):
            for _ in range(round(float(solution.exchange[arc]))):
                if len(free[slot]) > 0:
                    free[rows.exchange[arc, 1]].append(free[slot].pop())
        for entry, load in zip(wanted[slot], free[slot], strict=False):
            loads[load][1].append(entry)
    return [Loaded(place, tuple(entries)) for place, entries in loads if entries]


def _from_large(exchange: Ints, slots: int) -> list[int]:
    """Slots in an order in which every exchange goes forward."""
    waiting = np.bincount(exchange[:, 1], minlength=slots)
    order = [int(s) for s in np.flatnonzero(waiting == 0)]
    for slot in order:
        for smaller in exchange[exchange[:, 0] == slot, 1]:
            waiting[smaller] -= 1
            if waiting[smaller] == 0:
                order.append(int(smaller))
    return order


def _packing(columns: Columns, loads: list[Loaded]) -> Packing:
    """Put loads onto devices of their class; what its host's pools do not allow is left out."""
    rows = columns.rows
    instance: Instance = rows.problem.instance
    packing = Packing(instance)
    empty: dict[int, list[int]] = {}
    for index, group in enumerate(instance.group_of):
        empty.setdefault(int(rows.classes.class_of[group]), []).append(index)
    for load in sorted(loads, key=lambda load: -len(load.entries)):
        cls = int(rows.entries.place_group[load.place])
        option = int(rows.entries.place_option[load.place])
        items = [int(rows.entries.entry_item[e]) for e in load.entries]
        devices = empty.get(cls, [])
        if not devices:
            continue
        best = max(devices[:64], key=lambda index: _takes(packing, index, items, option))
        devices.remove(best)
        for item in items:
            if packing.fits(best, item, option):
                packing.add(best, item, option)
    return packing


def _takes(packing: Packing, index: int, items: list[int], option: int) -> int:
    """How many of the items the device takes beside what its host holds already."""
    if not packing.group(index).pools:
        return len(items)
    trial = packing.copy()
    for item in items:
        if trial.fits(index, item, option):
            trial.add(index, item, option)
    return len(trial.loads[index].items)
