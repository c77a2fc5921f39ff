"""Applies placement rules to packings: which models may be where, and what is missing.

`avoid`, `near` and `only_on` always hold: `Packing.fits` refuses what would break the first two,
and `only_on` limits what a device's group can hold. `survive` is instead part of the demand:
objectives that serve all demand fulfil it, the others report what is missing, as for the rate.
"""

import dataclasses
from typing import TYPE_CHECKING

from partitiond.planner.model.types import Instance, Need

if TYPE_CHECKING:
    from partitiond.planner.pack.packing import DeviceLoad, Packing


# --- what may be added and taken away --------------------------------------------------------


def shunned(instance: Instance, load: "DeviceLoad", model: int) -> bool:
    """Whether a model on the device and this model avoid each other."""
    others = instance.ties.avoided.get(model)
    return others is not None and any(instance.items[i].model in others for i in load.items)


def lonely(packing: "Packing", index: int, model: int) -> bool:
    """Whether the device's host lacks a model that this model has to be near to."""
    others = packing.instance.ties.near.get(model)
    if others is None:
        return False
    return not others <= on_host(packing, packing.instance.ties.host_of[index])


def on_host(packing: "Packing", host: int) -> set[int]:
    """Return the models that hold a replica on a host."""
    instance = packing.instance
    return {
        instance.items[item].model
        for index in instance.ties.devices_on[host]
        for item in packing.loads[index].items
    }


def may_leave(packing: "Packing", index: int, item: int) -> bool:
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


def missing(packing: "Packing", need: Need) -> Missing | None:
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


def helps(packing: "Packing", need: Need, lack: Missing, index: int) -> bool:
    """Whether a replica on this device reduces what is missing beyond rate and number."""
    if lack.hosts:
        return packing.instance.ties.host_of[index] in lack.hosts
    return lack.domain is None or need.domain_of[index] != lack.domain


def _worst(
    packing: "Packing", need: Need, without: tuple[int, int] | None = None
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


def rate_if_lost(packing: "Packing", need: Need) -> int:
    """Return the rate left when the fault domain that serves most is lost, in 1 / RATE_SCALE."""
    rates, _ = _by_domain(packing, need)
    return packing.rates[need.model] - max(rates.values(), default=0)


def _by_domain(packing: "Packing", need: Need) -> tuple[dict[int, int], dict[int, int]]:
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


def _hosts_to_join(packing: "Packing", model: int) -> tuple[int, ...]:
    ties = packing.instance.ties
    held = [on_host(packing, host) for host in range(len(ties.devices_on))]
    return tuple(
        host
        for host, models in enumerate(held)
        if model not in models and not ties.near_to[model].isdisjoint(models)
    )
