"""Holds a packing: which items are on which abstract device, and how each device is run.

The functions after it apply the placement rules: which models may be where, and what is missing.
`avoid`, `near` and `only_on` always hold: `Packing.fits` refuses what would break the first two,
and `only_on` limits what a device's group can hold. `survive` is instead part of the demand:
objectives that serve all demand fulfil it, the others report what is missing, as for the rate.
"""

import dataclasses
import math

from partitiond.planner.model.types import (
    PRICE_SCALE,
    RATE_SCALE,
    Group,
    Instance,
    Item,
    Need,
    Option,
)


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
    settled: bool = False
    """Whether it is known to be run at the lowest level that holds its items."""

    def copy(self) -> "DeviceLoad":
        """Return an independent copy."""
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
        """Return an independent copy."""
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
        """Return whether `item` fits onto device `index` when that is run as `option` of its group.

        `company=False` ignores the models that have to be near it; the caller checks those.
        """
        load = self.loads[index]
        if load.option is not None and load.option != option:
            return False
        if company and lacks_near(self, index, self.instance.items[item].model):
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
            or is_avoided(self.instance, load, it.model)
        ):
            return False
        if how.geometry is not None:
            return how.geometry.holds(load.code + how.geometry.step(it.mig_profile))
        return (
            load.memory + it.memory_bytes <= group.memory_bytes - how.overhead_bytes
            and load.sm + it.sm <= group.sm_percent
        )

    def pools_allow(self, index: int, item: int) -> bool:
        """Return whether the shared limits of the device's host have room for the item."""
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
        load.option, load.settled = option, False
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
        bears = group.held[how.way]
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
            if load.settled or not load.items:
                continue
            best = self.best_option(index, load.items)
            if best is not None and best != load.option:
                self.rerun(index, best)
            load.settled = True

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
        (`planner.model.solver_costs`)."""
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


# --- what may be added and taken away --------------------------------------------------------


def is_avoided(instance: Instance, load: DeviceLoad, model: int) -> bool:
    """Return whether a model on the device and this model avoid each other."""
    others = instance.ties.avoided.get(model)
    return others is not None and any(instance.items[i].model in others for i in load.items)


def lacks_near(packing: Packing, index: int, model: int) -> bool:
    """Return whether the device's host lacks a model that this model has to be near to."""
    others = packing.instance.ties.near.get(model)
    if others is None:
        return False
    return not others <= on_host(packing, packing.instance.ties.host_of[index])


def on_host(packing: Packing, host: int) -> set[int]:
    """Return the models that hold a replica on a host."""
    instance = packing.instance
    return {
        instance.items[item].model
        for index in instance.ties.devices_on[host]
        for item in packing.loads[index].items
    }


def may_leave(packing: Packing, index: int, item: int) -> bool:
    """Whether the rules hold, and enough survives a loss, without this replica of the packing.

    The caller checks the model's rate and least number of replicas.
    """
    instance, ties = packing.instance, packing.instance.ties
    model = instance.items[item].model
    if model in ties.near_to:
        here = ties.devices_on[ties.host_of[index]]
        held = [instance.items[i].model for b in here for i in packing.loads[b].items]
        if held.count(model) == 1 and not ties.near_to[model].isdisjoint(held):
            return False
    if model not in ties.spread:
        return True
    need = next(n for n in instance.needs if n.model == model)
    rate = instance.rate(item, packing.option(index))
    return _worst(packing, need, without=(index, rate)) is None


# --- what is missing -------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class Missing:
    """What a model lacks, and where its next replica helps most.

    Attributes:
        replicas: replicas missing to its least number.
        rate: rate missing to its demand, in 1 / RATE_SCALE.
        rate_if_lost: rate missing when the worst fault domain is lost, in 1 / RATE_SCALE.
        domain: number of that fault domain; None if every loss leaves enough.
        hosts: hosts that must get a replica, because a model that must be near to it is there.
    """

    replicas: int
    rate: int
    rate_if_lost: int = 0
    domain: int | None = None
    hosts: tuple[int, ...] = ()

    @property
    def only_survival(self) -> bool:
        """Whether all demand is served as long as nothing is lost."""
        return not (self.replicas or self.rate or self.hosts)


def missing(packing: Packing, need: Need) -> Missing | None:
    """Return what the model lacks in the packing; None if it has all it asks for."""
    replicas = max(0, need.min_replicas - packing.counts[need.model])
    rate = max(0, need.rate - packing.rates[need.model])
    ties = packing.instance.ties
    worst = _worst(packing, need) if need.model in ties.spread else None
    hosts = _hosts_to_join(packing, need.model) if need.model in ties.near_to else ()
    if not (replicas or rate or hosts or worst):
        return None
    domain, lost = worst or (None, 0)
    return Missing(replicas, rate, lost, domain, hosts)


def helps(packing: Packing, need: Need, lack: Missing, index: int) -> bool:
    """Return whether a replica on this device reduces what is missing beyond rate and number."""
    if lack.hosts:
        return packing.instance.ties.host_of[index] in lack.hosts
    return lack.domain is None or need.domain_of[index] != lack.domain


def _worst(
    packing: Packing, need: Need, without: tuple[int, int] | None = None
) -> tuple[int, int] | None:
    """Return the fault domain whose loss leaves least: its number, and the rate missing then.

    None if every loss leaves enough. `without` is the device and rate of one replica that is
    counted as removed.
    """
    rates, counts = _by_domain(packing, need)
    rate, count = packing.rates[need.model], packing.counts[need.model]
    if without is not None:
        domain = need.domain_of[without[0]]
        rates[domain] -= without[1]
        counts[domain] -= 1
        rate, count = rate - without[1], count - 1
    short = [
        (
            max(0, need.survive_rate - (rate - rates[d])),
            max(0, need.survive_replicas - (count - counts[d])),
            -d,
        )
        for d in sorted(rates)
    ] or [(need.survive_rate, need.survive_replicas, 0)]
    rate_short, replicas_short, domain = max(short)
    return (-domain, rate_short) if rate_short or replicas_short else None


def _by_domain(packing: Packing, need: Need) -> tuple[dict[int, int], dict[int, int]]:
    """Return the model's rate and replicas in each fault domain that holds any."""
    instance = packing.instance
    rates: dict[int, int] = {}
    counts: dict[int, int] = {}
    for index, load in enumerate(packing.loads):
        for item in load.items:
            if instance.items[item].model == need.model:
                domain = need.domain_of[index]
                rate = instance.rate(item, packing.option(index))
                rates[domain] = rates.get(domain, 0) + rate
                counts[domain] = counts.get(domain, 0) + 1
    return rates, counts


def _hosts_to_join(packing: Packing, model: int) -> tuple[int, ...]:
    ties = packing.instance.ties
    held = [on_host(packing, host) for host in range(len(ties.devices_on))]
    return tuple(
        host
        for host, models in enumerate(held)
        if model not in models and not ties.near_to[model].isdisjoint(models)
    )
