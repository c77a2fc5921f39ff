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

from partitiond.planner.columns.bound import STEPS, most_of, replica_prices, safe_bound
from partitiond.planner.columns.fleet import UNLIMITED, ColumnProblem, DeviceColumn
from partitiond.planner.columns.master import RowPrices
from partitiond.planner.model.sites import Floats, Ints

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

    Args:
        stop: asked before each way; True ends all, and no bound is proven any more.

    Attributes:
        bound: of any plan with all least numbers, in weighted requests/s; infinite if `stop` ended
            the search for it.
    """

    def __init__(self, fleet: ColumnProblem, duals: RowPrices, stop: Callable[[], bool]) -> None:
        self.fleet, self.stop = fleet, stop
        # What has no price is in no content.
        served = np.clip(duals.served, TRIFLE * fleet.worth, fleet.worth)
        trifle = TRIFLE * float(fleet.worth.max())
        least = np.where(fleet.least > 0, np.maximum(duals.least, trifle), 0.0)
        none = np.zeros(len(served))
        self.priced = dataclasses.replace(duals, served=served, least=least, most=none)
        self.price = np.concatenate([served, least])
        self.need = np.concatenate([np.ones(len(served)), fleet.least])
        missing = np.where(fleet.least > 0, UNLIMITED, 0.0)
        self.missing = np.concatenate([fleet.worth - served, missing])
        self.prices = replica_prices(fleet, self.priced, (0.0, 0.0))
        found = [most_of(fleet, held, self.prices, stop) for held in range(len(fleet.ways))]
        self.most = [np.inf if most is None else most for most in found]
        of_class = np.array(self.most)[fleet.classes.site_class]
        self.bound = float((fleet.worth - served).sum() - least @ fleet.least)
        self.bound += float(fleet.classes.count @ of_class)

    def bound_beyond(self, lost: float) -> float:
        """Return an upper bound on plans that lose no less than this."""
        return safe_bound(self.fleet, self.priced, self.bound - lost)

    def within(self, margin: float) -> tuple[float, list[DeviceColumn]] | None:
        """Return the least that a plan loses, and its contents; `margin` and none if no plan loses
        less; None if a limit or `stop` ended it."""
        classes, contents = self.fleet.classes, dict[int, Columns]()
        for held in set(classes.site_class.tolist()):
            found = self._contents(held, margin)
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
            total += np.maximum(0.0, self.need - after - reach[at + 1]) @ self.missing
            for n in np.argsort(total, kind="stable").tolist():
                if total[n] >= best or self.stop():
                    return
                picked.append(first + n)
                if at + 1 == len(slots):
                    best, chosen = float(total[n]), [*picked]
                else:
                    choose(at + 1, after[n], float(own[n]))
                picked.pop()

        choose(0, np.zeros(len(self.price)), 0.0)
        if self.stop():
            return None
        plan = [
            dataclasses.replace(slot.column[n], cls=cls)
            for slot, n, cls in zip(slots, chosen, order, strict=False)
            if len(slot.column[n].entries)
        ]
        return best, plan

    def _contents(self, held: int, margin: float) -> Columns | None:
        """Return the contents that lose less than `margin`."""
        pricer, above, columns = self.fleet.pricer, self.most[held] - margin, [_NOTHING]
        pricer.sets = []
        for way in sorted(self.fleet.ways[held], key=lambda way: -way.bound):
            known = len(pricer.sets)
            if self.stop() or not pricer.collect(way.way, self.prices, above, STEPS, MOST_NODES):
                return None
            for chosen in pricer.sets[known:]:
                entries: Ints = np.sort(way.entries[chosen])
                columns.append(DeviceColumn(-1, way.site, way.level, entries))
        served = [*pricer.serves] if len(columns) > 1 else []
        brings = np.array([0.0] * len(self.price) + served).reshape(len(columns), -1)
        loss = np.maximum(0.0, self.most[held] - brings @ self.price)
        order = np.argsort(loss, kind="stable")
        return Columns(brings[order], loss[order], [columns[n] for n in order])


_NOTHING: Final = DeviceColumn(-1, 0, 0, np.zeros(0, dtype=np.int64))
