"""Finds which models placement rules tie together in an instance, before anything is packed."""

from collections.abc import Collection, Iterable, Sequence

from partitiond.core.hardware.kinds import Device
from partitiond.core.model.spec import FaultDomain
from partitiond.core.numbers.grouping import by_key
from partitiond.core.plan.record import ModelDemand
from partitiond.planner.model.types import Instance, Need, PlanRequest, Ties


def names_of(device: Device) -> frozenset[str]:
    """Return the names by which `only_on` can mean a device: id, host, rack or hardware key."""
    return frozenset({device.id, device.host, device.rack, device.hardware}) - {""}


def unknown_places(request: PlanRequest, model: ModelDemand) -> tuple[str, ...]:
    """Return the names in `only_on` that match no device."""
    if not model.rules.only_on:
        return ()
    known = frozenset[str]().union(*(names_of(d) for d in request.devices))
    return tuple(name for name in model.rules.only_on if name not in known)


def ties_of(request: PlanRequest, needs: Sequence[Need]) -> Ties:
    """Return the rules between replicas, without names of models that are not planned."""
    if not any(n.avoid or n.near or n.domain_of for n in needs):
        return Ties()
    position = {need.name: need.model for need in needs}

    def known(names: Iterable[str]) -> frozenset[int]:
        return frozenset(position[name] for name in names if name in position)

    avoided = {n.model: known(n.avoid) for n in needs if n.avoid}
    near = {n.model: known(n.near) for n in needs if n.near}
    near_to: dict[int, frozenset[int]] = {}
    for model, others in near.items():
        for other in others:
            near_to[other] = near_to.get(other, frozenset()) | {model}
    hosts = by_key((device.host, index) for index, device in enumerate(request.devices))
    number = {host: n for n, host in enumerate(hosts)}
    spread = frozenset(n.model for n in needs if n.domain_of)
    kinds = {request.models[n.model].rules.survive for n in needs}
    return Ties(
        avoided=avoided,
        near=near,
        near_to=near_to,
        spread=spread,
        host_of=tuple(number[d.host] for d in request.devices),
        devices_on=tuple(tuple(bins) for bins in hosts.values()),
        by_host=bool(near) or bool(kinds & {FaultDomain.HOST, FaultDomain.RACK}),
    )


def without_neighbours(needs: Sequence[Need], placeable: Collection[int]) -> frozenset[int]:
    """Return models that fit a device, but may not be there: a model they are to be near has no
    place itself."""
    known = {need.name: need.model for need in needs}
    able = set(placeable)
    while True:
        lost = {
            n.model
            for n in needs
            if n.model in able and any(known.get(name) not in able for name in n.near)
        }
        if not lost:
            return frozenset(placeable) - able
        able -= lost


def twins(instance: Instance) -> list[tuple[int, ...]]:
    """Return sets of interchangeable devices: a group, or its part on one host if rules need that.

    Earlier devices come first in a set.
    """
    if not instance.ties.by_host:
        return [group.bins for group in instance.groups]
    devices, group_of = instance.request.devices, instance.group_of
    found = by_key(((group_of[i], d.host, d.rack), i) for i, d in enumerate(devices))
    return [tuple(bins) for bins in found.values()]
