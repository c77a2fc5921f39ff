"""A packing: which items are on which abstract device, and how each device is run."""

import dataclasses
import math

from partitiond.planner.instance import (
    PRICE_SCALE,
    RATE_SCALE,
    Group,
    Instance,
    Option,
)


@dataclasses.dataclass(slots=True)
class Load:
    """What is on one device: its option's place in the group's options, items, and their sums."""

    group: int
    option: int | None = None
    items: list[int] = dataclasses.field(default_factory=list)
    memory: int = 0
    sm: int = 0
    busy: int = 0
    cores: int = 0

    def copy(self) -> "Load":
        """An independent copy."""
        return Load(
            self.group, self.option, [*self.items], self.memory, self.sm, self.busy, self.cores
        )


class Packing:
    """Mutable loads of all devices, with the sums that tell what still fits."""

    def __init__(self, instance: Instance) -> None:
        self.instance = instance
        self.loads = [Load(group) for group in instance.group_of]
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
        """The group of a device."""
        return self.instance.groups[self.loads[index].group]

    def option(self, index: int) -> Option:
        """How a device that is in use is run."""
        option = self.loads[index].option
        assert option is not None, "an empty device has no option"
        return self.group(index).options[option]

    def fits(self, index: int, item: int, option: int) -> bool:
        """Whether `item` fits onto device `index` when that is run as `option` of its group."""
        load = self.loads[index]
        if load.option is not None and load.option != option:
            return False
        return self.fits_beside(index, item, option) and self.pools_allow(index, item)

    def fits_beside(self, index: int, item: int, option: int) -> bool:
        """The limits of the device itself, whatever option it has now."""
        load, group = self.loads[index], self.group(index)
        how, it = group.options[option], self.instance.items[item]
        count = len(load.items) + 1
        return (
            count <= how.max_items
            and load.memory + it.memory_mib <= group.memory_mib - how.overhead_mib
            and load.sm + it.sm <= 100
            and load.busy + it.busy <= how.busy_limit[count]
            and (not group.cores or load.cores + it.cores <= group.cores)
        )

    def pools_allow(self, index: int, item: int) -> bool:
        """Whether what devices of one host share has room for the item."""
        pools = self.instance.pools
        return all(
            self.pool_used[p] + self.instance.pool_use(pools[p], item) <= pools[p].capacity
            for p in self.group(index).pools
        )

    def add(self, index: int, item: int, option: int) -> None:
        """Put an item onto a device; the caller has asked `fits`."""
        self._change(index, item, +1, option)
        self.loads[index].items.append(item)

    def remove(self, index: int, item: int) -> None:
        """Take an item away; the last one closes the device."""
        load = self.loads[index]
        load.items.remove(item)
        assert load.option is not None
        self._change(index, item, -1, load.option)
        if not load.items:
            load.option = None

    def _change(self, index: int, item: int, sign: int, option: int) -> None:
        load, it = self.loads[index], self.instance.items[item]
        load.option = option
        load.memory += sign * it.memory_mib
        load.sm += sign * it.sm
        load.busy += sign * it.busy
        load.cores += sign * it.cores
        group = self.group(index)
        for p in group.pools:
            self.pool_used[p] += sign * self.instance.pool_use(self.instance.pools[p], item)
        self.rates[it.model] += sign * self.instance.rate(item, group.options[option])
        self.counts[it.model] += sign

    def rerun(self, index: int, option: int) -> None:
        """Run a device that is in use as another option; the caller knows that all fits."""
        load, group = self.loads[index], self.group(index)
        assert load.option is not None
        for item in load.items:
            model = self.instance.items[item].model
            self.rates[model] += self.instance.rate(item, group.options[option])
            self.rates[model] -= self.instance.rate(item, group.options[load.option])
        load.option = option

    def best_option(self, index: int, items: list[int]) -> int | None:
        """The lowest level at which the device holds exactly `items`; None where none does."""
        group = self.group(index)
        trial = Packing.__new__(Packing)
        trial.instance, trial.loads = self.instance, [Load(self.loads[index].group)]
        for option, fit in enumerate(group.fits):
            if not set(items) <= set(fit):
                continue
            load = trial.loads[0] = Load(self.loads[index].group)
            for item in items:
                if not trial.fits_beside(0, item, option):
                    break
                it = self.instance.items[item]
                load.items.append(item)
                load.memory += it.memory_mib
                load.sm += it.sm
                load.busy += it.busy
                load.cores += it.cores
            else:
                return option
        return None

    def settle(self) -> None:
        """Run every device at the lowest level that holds what is on it."""
        for index, load in enumerate(self.loads):
            best = self.best_option(index, load.items) if load.items else None
            if best is not None and best != load.option:
                self.rerun(index, best)

    def used(self) -> list[int]:
        """Devices that hold something."""
        return [index for index, load in enumerate(self.loads) if load.items]

    def cost_units(self) -> int:
        """Price of the devices in use, in 1 / PRICE_SCALE; exact, for limits and divisions."""
        return sum(self.group(index).price for index in self.used())

    def cost(self) -> float:
        """Price of the devices in use."""
        return self.cost_units() / PRICE_SCALE

    def lacking(self) -> list[int]:
        """Models whose replicas or rate fall short, as positions in `needs`."""
        return [
            position
            for position, need in enumerate(self.instance.needs)
            if self.counts[need.model] < need.min_replicas or self.rates[need.model] < need.rate
        ]

    def short_replicas(self) -> int:
        """Replicas missing to the least numbers."""
        return sum(max(0, n.min_replicas - self.counts[n.model]) for n in self.instance.needs)

    def goodput(self) -> float:
        """Weighted planned requests/s; models without a rate count only where none has one."""
        needs = self.instance.needs
        rated = [n for n in needs if n.rated]
        return math.fsum(
            n.weight * (min(self.rates[n.model], n.rate) if n.rated else self.rates[n.model])
            for n in rated or needs
        ) / (RATE_SCALE)
