"""Checks where replicas may be, and how much is left after a loss."""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence

from partitiond.core.hardware.kinds import Device
from partitiond.core.model.spec import FaultDomain
from partitiond.core.plan.record import ModelDemand, Placement, Plan
from partitiond.planner.check.fault import Fault, Kind
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
    rules = demand.rules
    for device in sorted({p.device_id for p in mine}) if rules.avoid else ():
        for fault in check_avoid(demand, device, {p.model for p in plan.on_device(device)}):
            yield fault.text
    for host in sorted({devices[p.device_id].host for p in mine}) if rules.near else ():
        here = {p.model for p in plan.placements if devices[p.device_id].host == host}
        for fault in check_near(demand, host, here):
            yield fault.text
    for p in mine:
        for fault in check_place(p, demand, devices[p.device_id]):
            yield fault.text
    if levels is not None:
        yield from check_survival(demand, mine, devices, levels)


def check_avoid(demand: ModelDemand, device: str, there: Collection[str]) -> Iterator[Fault]:
    """Yield models on the same device that a model avoids."""
    for other in sorted(set(there) & set(demand.rules.avoid) - {demand.model}):
        told = f"{demand.model} avoids {other} and shares {device} with it"
        yield Fault(Kind.AVOID, told)


def check_near(demand: ModelDemand, host: str, there: Collection[str]) -> Iterator[Fault]:
    """Yield models that a model must be near to, and that have no replica on its host."""
    for other in demand.rules.near:
        if other not in there:
            told = f"{demand.model} is on host {host} without {other}, which it must be near to"
            yield Fault(Kind.NEAR, told)


def check_place(p: Placement, demand: ModelDemand, device: Device) -> Iterator[Fault]:
    """Yield that a replica is on a device that its model's `only_on` does not name."""
    allowed = demand.rules.only_on
    if allowed and not {device.id, device.host, device.rack, device.hardware} & set(allowed):
        told = f"{p.replica_id} is on {device.id}, {p.model} may only be on {', '.join(allowed)}"
        yield Fault(Kind.ONLY_ON, told)


def check_survival(
    demand: ModelDemand,
    mine: Sequence[Placement],
    devices: Mapping[str, Device],
    levels: Mapping[str, float | None],
) -> Iterator[str]:
    """Yield losses after which less of a model is left than its `survive` wants."""
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


def check_slo(
    mine: Sequence[Placement], demand: ModelDemand, levels: Mapping[str, float | None]
) -> Iterator[Fault]:
    """Yield replicas that would miss the bounds of the model's SLO."""
    if demand.slo is None:
        return
    for p in mine:
        level = levels[p.device_id] or math.inf
        if p.candidate.ttft_p95_seconds * level > demand.slo.ttft_seconds * (1 + RELATIVE):
            told = f"{p.replica_id} would miss the TTFT bound of {demand.model} on {p.device_id}"
            yield Fault(Kind.SLO, told)
        if p.candidate.tpot_p95_seconds * level > demand.slo.tpot_seconds * (1 + RELATIVE):
            told = f"{p.replica_id} would miss the TPOT bound of {demand.model} on {p.device_id}"
            yield Fault(Kind.SLO, told)
