"""Holds a packing: which items are on which abstract device, and how each device is run."""

import dataclasses
import math

from partitiond.planner.model.types import PRICE_SCALE, RATE_SCALE, Group, Instance, Item, Option
from partitiond.planner.pack.rules import lonely, missing, shunned


@dataclasses.dataclass(slots=True)
class DeviceLoad:
    """The contents of one device: position of its option in its group, items, and their sums."""

    group: int
    option: int | None = None
    items: list[int] = dataclasses.field(default_factory=list)
    memory: int = 0
    sm: int = 0
    busy: int = 0
    cores: int = 0
    code: int = 0
    """In mode MIG, the number of the set of instances."""

    def copy(self) -> "DeviceLoad":
        """An independent copy."""
        return dataclasses.replace(self, items=[*self.items])


def _count(load: DeviceLoad, it: Item, how: Option, sign: int) -> None:
    """Add an item to a load's sums, or subtract it."""
    load.memory += sign * it.memory_bytes
    load.sm += sign * it.sm
    load.busy += sign * it.busy
    load.cores += sign * it.cores
    if how.geometry is not None:
        load.code += sign * how.geometry.step(it.mig_profile)


class Packing:
    """Mutable loads of all devices, with the sums that tell what still fits."""

    def __init__(self, instance: Instance) -> None:
        self.instance = instance
        self.loads = [DeviceLoad(group) for group in instance.group_of]
        self.pool_used = [0] * len(instance.pools)
        self.rates: dict[int, int] = {need.model: 0 for need in instance.needs}
        self.counts: dict[int, int] = {need.model: 0 for need in instance.needs}

    def copy(self) -> "Packing":
        """An independent copy."""
        other = Packing.__new__(Packing)
        other.instance = self.instance
        other.loads = [load.copy() for load in self.loads]
        other.pool_used = [*self.pool_used]
        other.rates = {**self.rates}
        other.counts = {**self.counts}
        return other

    def group(self, index: int) -> Group:
        """Return the group of a device."""
        return self.instance.groups[self.loads[index].group]

    def option(self, index: int) -> Option:
        """Return the option as which a device in use is run."""
        option = self.loads[index].option
        assert option is not None, "an empty device has no option"
        return self.group(index).options[option]

    def fits(self, index: int, item: int, option: int, *, company: bool = True) -> bool:
        """Whether `item` fits onto device `index` when that is run as `option` of its group.

        `company=False` ignores the models that have to be near it; the caller checks those.
        """
        load = self.loads[index]
        if load.option is not None and load.option != option:
            return False
        if company and lonely(self, index, self.instance.items[item].model):
            return False
        group = self.group(index)
        how = group.options[option]
        return self._holds(load, group, how, item) and self.pools_allow(index, item)

    def _holds(self, load: DeviceLoad, group: Group, how: Option, item: int) -> bool:
        """Whether a device of `group` that is run as `how` holds the item beside its load."""
        it = self.instance.items[item]
        count = len(load.items) + 1
        if (
            count > how.max_items
            or load.busy + it.busy > how.busy_limit[count]
            or (group.cores and load.cores + it.cores > group.cores)
            or shunned(self.instance, load, it.model)
        ):
            return False
        if how.geometry is not None:
            return how.geometry.holds(load.code + how.geometry.step(it.mig_profile))
        return (
            load.memory + it.memory_bytes <= group.memory_bytes - how.overhead_bytes
            and load.sm + it.sm <= group.sm_percent
        )

    def pools_allow(self, index: int, item: int) -> bool:
        """Whether the shared limits of the device's host have room for the item."""
        pools = self.instance.pools
        return all(
            self.pool_used[p] + self.instance.pool_use(pools[p], item) <= pools[p].capacity
            for p in self.group(index).pools
        )

    def add(self, index: int, item: int, option: int) -> None:
        """Put an item onto a device; the caller has checked `fits`."""
        self._change(index, item, +1, option)
        self.loads[index].items.append(item)

    def remove(self, index: int, item: int) -> None:
        """Remove an item; removing the last one closes the device."""
        load = self.loads[index]
        load.items.remove(item)
        assert load.option is not None
        self._change(index, item, -1, load.option)
        if not load.items:
            load.option = None

    def _change(self, index: int, item: int, sign: int, option: int) -> None:
        load, it = self.loads[index], self.instance.items[item]
        load.option = option
        _count(load, it, self.group(index).options[option], sign)
        group = self.group(index)
        for p in group.pools:
            self.pool_used[p] += sign * self.instance.pool_use(self.instance.pools[p], item)
        self.rates[it.model] += sign * self.instance.rate(item, group.options[option])
        self.counts[it.model] += sign

    def rerun(self, index: int, option: int) -> None:
        """Run a device in use as another option; the caller knows that all its items fit."""
        before = self.loads[index].option
        assert before is not None
        for item in self.loads[index].items:
            self._change(index, item, -1, before)
            self._change(index, item, +1, option)

    def best_option(self, index: int, items: list[int]) -> int | None:
        """Return the lowest option at which the device holds exactly `items`; None if none does."""
        group, count = self.group(index), len(items)
        mode = self.instance.items[items[0]].candidate.size.mode if items else None
        busy = sum(self.instance.items[item].busy for item in items)
        for option, how in enumerate(group.options):
            # Most options are refused by these sums, which cost less than placing item after item.
            if count > how.max_items or busy > how.busy_limit[count]:
                continue
            if count > 1 and how.mode is not mode:
                continue
            if self._may_be(group, how, items) and self._holds_all(group, how, items):
                return option
        return None

    def _may_be(self, group: Group, how: Option, items: list[int]) -> bool:
        """Whether each item by itself may be on a device that is run as `how`, as `Group.fits`."""
        bears = group.held[how.mode]
        return all(
            bears.get(item, 0.0) >= how.level
            and (how.mode is None or self.instance.items[item].kappa <= how.kappa)
            for item in items
        )

    def _holds_all(self, group: Group, how: Option, items: list[int]) -> bool:
        load = DeviceLoad(group.index)
        for item in items:
            if not self._holds(load, group, how, item):
                return False
            load.items.append(item)
            _count(load, self.instance.items[item], how, +1)
        return True

    def settle(self) -> None:
        """Run every device at the lowest level that holds its items."""
        for index, load in enumerate(self.loads):
            best = self.best_option(index, load.items) if load.items else None
            if best is not None and best != load.option:
                self.rerun(index, best)

    def used(self) -> list[int]:
        """Return the devices that hold something."""
        return [index for index, load in enumerate(self.loads) if load.items]

    def cost_units(self) -> int:
        """Return the cost of devices in use and of their items, in 1 / PRICE_SCALE; exact."""
        items = self.instance.items
        return sum(
            self.group(index).price + sum(items[item].cost for item in self.loads[index].items)
            for index in self.used()
        )

    def cost(self) -> float:
        """Return the cost as a number; its unit depends on the objective
        (`planner.model.costs`)."""
        return self.cost_units() / PRICE_SCALE

    def lacking(self) -> list[int]:
        """Return the models short of replicas, rate or survival, as positions in `needs`."""
        return [
            position
            for position, need in enumerate(self.instance.needs)
            if missing(self, need) is not None
        ]

    def short_replicas(self) -> int:
        """Return the number of replicas missing to the least numbers."""
        return sum(max(0, n.min_replicas - self.counts[n.model]) for n in self.instance.needs)

    def goodput(self) -> float:
        """Return weighted planned requests/s; models without a rate count only if none has one."""
        needs = self.instance.needs
        rated = [n for n in needs if n.rated]
        worths = (
            n.worth * (min(self.rates[n.model], n.rate) if n.rated else self.rates[n.model])
            for n in rated or needs
        )
        return math.fsum(worths) / RATE_SCALE
