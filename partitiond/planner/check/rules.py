"""Checks where replicas may be, and how much is left after a loss."""

import math
from collections.abc import Iterator, Mapping, Sequence

from partitiond.core.hardware.kinds import Device
from partitiond.core.model.spec import FaultDomain
from partitiond.core.plan.record import ModelDemand, Placement, Plan
from partitiond.planner.check.figures import RELATIVE, rate_of


def check_rules(
    plan: Plan,
    mine: Sequence[Placement],
    demand: ModelDemand,
    levels: Mapping[str, float | None] | None,
) -> Iterator[str]:
    """Yield violations of one model's placement rules.

    Args:
        plan: the plan.
        mine: the plan's placements of the model.
        demand: demand of the model.
        levels: level of interference by device; None if `survive`, a part of the demand, need not
            hold because the model is listed as unplaced.
    """
    devices = {d.id: d for d in plan.devices}
    yield from _check_avoid(plan, demand, mine)
    yield from _check_near(plan, demand, mine, devices)
    for p in mine:
        yield from check_place(p, demand, devices[p.device_id])
    if levels is not None:
        yield from _check_survival(demand, mine, devices, levels)


def _check_avoid(plan: Plan, demand: ModelDemand, mine: Sequence[Placement]) -> Iterator[str]:
    if not demand.rules.avoid:
        return
    for device in sorted({p.device_id for p in mine}):
        others = {p.model for p in plan.on_device(device)} - {demand.model}
        for other in sorted(others & set(demand.rules.avoid)):
            yield f"{demand.model} avoids {other} and shares {device} with it"


def _check_near(
    plan: Plan, demand: ModelDemand, mine: Sequence[Placement], devices: Mapping[str, Device]
) -> Iterator[str]:
    if not demand.rules.near:
        return
    for host in sorted({devices[p.device_id].host for p in mine}):
        here = {p.model for p in plan.placements if devices[p.device_id].host == host}
        for other in demand.rules.near:
            if other not in here:
                yield f"{demand.model} is on host {host} without {other}, which it must be near to"


def check_place(p: Placement, demand: ModelDemand, device: Device) -> Iterator[str]:
    """Yield that a replica is on a device that its model's `only_on` does not name."""
    allowed = demand.rules.only_on
    if allowed and not {device.id, device.host, device.rack, device.hardware} & set(allowed):
        yield f"{p.replica_id} is on {device.id}, {p.model} may only be on {', '.join(allowed)}"


def _check_survival(
    demand: ModelDemand,
    mine: Sequence[Placement],
    devices: Mapping[str, Device],
    levels: Mapping[str, float | None],
) -> Iterator[str]:
    planned = demand.demand.planned_req_per_s
    for lost, left in _left(demand, mine, devices).items():
        if planned is None:
            if not left:
                yield f"{demand.model} has no replica left when {lost} is lost"
            continue
        rate = math.fsum(rate_of(p, levels) for p in left)
        wanted = planned * demand.rules.survive_share
        if rate < wanted * (1 - RELATIVE):
            yield (
                f"{demand.model} keeps {rate:.4g} of {wanted:.4g} requests/s when {lost} is lost"
            )


def _left(
    demand: ModelDemand, mine: Sequence[Placement], devices: Mapping[str, Device]
) -> dict[str, list[Placement]]:
    """Return, for each fault domain of a model, the placements left when that domain is lost."""
    kind = demand.rules.survive
    where = [] if kind is None else [(_domain(devices[p.device_id], kind), p) for p in mine]
    return {
        lost: [p for domain, p in where if domain != lost]
        for lost in sorted({domain for domain, _ in where})
    }


def _domain(device: Device, kind: FaultDomain) -> str:
    match kind:
        case FaultDomain.DEVICE:
            return f"device {device.id}"
        case FaultDomain.RACK if device.rack:
            return f"rack {device.rack}"
        case _:
            return f"host {device.host}"
