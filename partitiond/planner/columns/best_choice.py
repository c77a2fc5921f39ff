"""Proves the best plan of few devices: lists all that a device of it can hold, and chooses.

Against the bound at prices a plan loses, on each device, what its content is worth less than the
most valuable one; the price of what is served beyond a demand; and of what is not served, the worth
beyond its price. A plan that loses less than `margin` has no device that loses more, so it is made
of the contents that `Pricer.collect` finds. The search chooses one for each device.
"""

import dataclasses
from collections.abc import Callable
from typing import Final

import numpy as np

from partitiond.planner.columns.bound import STEPS, most_of, replica_prices
from partitiond.planner.columns.fleet import UNLIMITED, ColumnProblem, DeviceColumn
from partitiond.planner.columns.master import RowPrices
from partitiond.planner.columns.pricing import GRAIN
from partitiond.planner.model.sites import Floats, Ints
from partitiond.planner.stop import never

TRIFLE: Final = 1e-9
MOST_NODES: Final = 10_000_000
"""Limit on the branches for one way, of which each eighth content known counts as one. Chosen."""


@dataclasses.dataclass(frozen=True, eq=False, slots=True)
class Columns:
    """What a device of a class of `Sites` may hold.

    Attributes:
        brings: (n, 2M) served part of each demand, and replicas towards each least number.
        loss: (n,) what each is worth less than the most valuable, in ascending order.
        column: each as a column of class -1.
    """

    brings: Floats
    loss: Floats
    column: list[DeviceColumn]


class BestChoice:
    """The plans that lose little at given prices.

    Pools of hosts and largest numbers of replicas have no price: the bound holds without them.

    Attributes:
        bound: of any plan with all least numbers, in weighted requests/s.
    """

    def __init__(self, fleet: ColumnProblem, duals: RowPrices) -> None:
        self.fleet = fleet
        served, none = np.minimum(duals.served, fleet.worth), np.zeros(len(fleet.worth))
        plain = dataclasses.replace(duals, served=served, most=none)
        # What has no price is in no content; a trifle for the search of the most would end it late.
        trifle = TRIFLE * float(fleet.worth.max())
        served = np.where(fleet.worth > 0, np.maximum(served, TRIFLE * fleet.worth), 0.0)
        least = np.where(fleet.least > 0, np.maximum(duals.least, trifle), 0.0)
        priced = dataclasses.replace(plain, served=served, least=least)
        self.price = np.concatenate([served, least])
        self.need = np.concatenate([np.ones(len(served)), fleet.least])
        missing = np.where(fleet.least > 0, UNLIMITED, 0.0)
        self.missing = np.concatenate([fleet.worth - served, missing])
        self.prices = replica_prices(fleet, priced, (0.0, 0.0))
        more = float((served - plain.served).sum() + (least - plain.least) @ fleet.least)
        at_plain = replica_prices(fleet, plain, (0.0, 0.0))
        found = [
            most_of(fleet, held, at_plain, never, MOST_NODES) for held in range(len(fleet.ways))
        ]
        self.most = [(most or 0.0) + more for most in found]
        of_class = np.array(self.most)[fleet.classes.site_class]
        self.bound = float((fleet.worth - served).sum() - least @ fleet.least)
        self.bound += float(fleet.classes.count @ of_class)

    def within(
        self, margin: float, stop: Callable[[], bool]
    ) -> tuple[float, list[DeviceColumn]] | None:
        """Return the least that a plan loses, and that plan; `margin` and none if no plan loses
        less; None if a limit or `stop` ended it."""
        classes, contents = self.fleet.classes, dict[int, Columns]()
        for held in set(classes.site_class.tolist()):
            found = self._contents(held, margin, stop)
            if found is None:
                return None
            contents[held] = found
        order = sorted(
            np.repeat(np.arange(len(classes.count)), classes.count).tolist(),
            key=lambda c: (len(contents[int(classes.site_class[c])].loss), c),
        )
        slots = [contents[int(classes.site_class[c])] for c in order]
        reach = [np.zeros(len(self.price))]
        for slot in reversed(slots):
            reach.append(reach[-1] + slot.brings.max(axis=0))
        reach.reverse()
        best, chosen, picked = margin, list[int](), list[int]()

        def choose(at: int, brought: Floats, lost: float) -> None:
            nonlocal best, chosen
            slot = slots[at]
            first = picked[-1] if at and slots[at - 1] is slot else 0
            last = int(np.searchsorted(slot.loss, best - lost))
            after = brought + slot.brings[first:last]
            own = lost + slot.loss[first:last]
            total = own + np.maximum(0.0, after - self.need) @ self.price
            short = self.need - after - reach[at + 1]
            total += np.where(short > GRAIN, short, 0.0) @ self.missing
            for n in np.argsort(total, kind="stable").tolist():
                if total[n] >= best or stop():
                    return
                picked.append(first + n)
                if at + 1 == len(slots):
                    best, chosen = float(total[n]), [*picked]
                else:
                    choose(at + 1, after[n], float(own[n]))
                picked.pop()

        choose(0, np.zeros(len(self.price)), 0.0)
        if stop():
            return None
        plan = [
            dataclasses.replace(slot.column[n], cls=cls)
            for slot, n, cls in zip(slots, chosen, order, strict=False)
            if len(slot.column[n].entries)
        ]
        return best, plan

    def _contents(self, held: int, margin: float, stop: Callable[[], bool]) -> Columns | None:
        """Return the contents that lose less than `margin`, without those that others beat."""
        pricer, above, columns = self.fleet.pricer, self.most[held] - margin, [_NOTHING]
        pricer.sets = []
        for way in sorted(self.fleet.ways[held], key=lambda way: -way.bound):
            known = len(pricer.sets)
            if stop() or not pricer.collect(way.way, self.prices, above, STEPS, MOST_NODES):
                return None
            for chosen in pricer.sets[known:]:
                entries: Ints = np.sort(way.entries[chosen])
                columns.append(DeviceColumn(-1, way.site, way.level, entries))
        brings = np.array([self._brings(column) for column in columns])
        loss = np.maximum(0.0, self.most[held] - brings @ self.price)
        order, kept = np.argsort(loss, kind="stable"), list[int]()
        brings, loss, best = brings[order], loss[order], np.empty_like(brings)
        for n, mine in enumerate(brings):
            if stop():
                return None
            if not (best[: len(kept)] >= mine - GRAIN).all(axis=1).any():
                best[len(kept)] = mine
                kept.append(n)
        return Columns(brings[kept], loss[kept], [columns[order[n]] for n in kept])

    def _brings(self, column: DeviceColumn) -> Floats:
        """Return the served part of each demand, and replicas towards each least number."""
        of, models = self.fleet.sites.entry_model[column.entries], len(self.fleet.worth)
        part = self.fleet.part[column.entries, column.level]
        served = np.minimum(1.0, np.bincount(of, part, models))
        return np.concatenate([served, np.minimum(self.fleet.least, np.bincount(of, None, models))])


_NOTHING: Final = DeviceColumn(-1, 0, 0, np.zeros(0, dtype=np.int64))
