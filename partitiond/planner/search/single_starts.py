"""Starts replicas beside a plan, one by one, where its models lack something and the checker finds
room.

Packings know how many MIG instances a GPU holds, and no slots: the last replica may fit only if one
that runs leaves its place. Where that is an outage, some of them fit all the same. So whatever made
a plan, what it leaves is looked for once more, beside exactly what the plan holds.
"""

import dataclasses
import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Final

from partitiond.core.hardware.kinds import Device
from partitiond.core.numbers.grouping import by_key
from partitiond.core.plan.record import MAY_LACK, Candidate, ModelDemand, Placement
from partitiond.planner.check.figures import level_together
from partitiond.planner.check.fits import Fits
from partitiond.planner.model.types import PlanRequest
from partitiond.planner.search.without_outage import forbidden_outages
from partitiond.planner.stop import Stop

LOOKS: Final = 20_000
"""Sizes that are held against devices at most, some 2 s. Chosen."""


def with_single_starts(
    request: PlanRequest, placements: tuple[Placement, ...], *, idle: bool, stop: Stop
) -> tuple[Placement, ...]:
    """Return the placements and what could be started beside them: least numbers, then demand, each
    by priority. Nothing is served less, and no model has an outage for it.

    Args:
        request: the question; a model may have placements that it does not ask for any more.
        placements: an answer to it.
        idle: True looks only at devices that hold nothing.
        stop: True ends the search with what was found.
    """
    held = {p.device_id for p in placements if idle}
    devices = [d for d in request.devices if not (d.cordoned or d.id in held)]
    ranked = sorted(request.models, key=lambda d: -d.rules.priority)
    looks = iter(range(LOOKS))
    for least, demand in itertools.product((True, False), ranked):
        more: tuple[Placement, ...] | None = placements
        while more is not None:
            placements = more
            tried = _starts(request, placements, demand, devices, least=least)
            there = (one for one, _ in zip(tried, looks, strict=False) if one is not None)
            more = None if stop() else next(there, None)
    return placements


def _starts(
    request: PlanRequest,
    placements: tuple[Placement, ...],
    demand: ModelDemand,
    devices: Sequence[Device],
    *,
    least: bool,
) -> Iterator[tuple[Placement, ...] | None]:
    """Yield for each look the placements with one more of a model, or None if it does not fit."""
    rates, planned = _rates(request, placements), demand.demand.planned_req_per_s
    mine, rate = [p for p in placements if p.model == demand.model], rates.get(demand.model, 0.0)
    enough = planned is None or rate >= planned * (1 - MAY_LACK)
    if len(mine) == demand.max_replicas:
        return
    if len(mine) >= demand.min_replicas if least else enough:
        return
    named = {d.model: d for d in request.models}
    fits = Fits(
        request.devices,
        named,
        request.interference,
        dict(request.host_memory_bytes),
        placements=placements,
        rates=rates,
    )
    name = _free_name(demand.model, {p.replica_id for p in (*placements, *request.running)})
    for c in sorted(demand.candidates, key=_by_rate):
        for device in (d for d in devices if d.hardware == c.hardware):
            new = fits.place(c, device)
            if not isinstance(new, Placement):
                yield None
                continue
            grown = (*placements, dataclasses.replace(new, replica_id=name))
            more = _rates(request, grown).get(demand.model, 0.0) > rate
            yield grown if more and not forbidden_outages(request, grown) else None


def _by_rate(c: Candidate) -> tuple[float, int]:
    return -c.capacity_req_per_s, c.memory_bytes


def _free_name(model: str, taken: Collection[str]) -> str:
    return next(name for n in itertools.count(1) if (name := f"{model}-{n}") not in taken)


def _rates(request: PlanRequest, placements: tuple[Placement, ...]) -> Mapping[str, float]:
    """Return the requests/s of each model."""
    rates = dict[str, float]()
    for here in by_key((p.device_id, p) for p in placements).values():
        level = level_together([p.candidate for p in here], request.interference)
        for p in here if level else ():
            rates[p.model] = rates.get(p.model, 0.0) + p.candidate.capacity_req_per_s / (level or 1)
    return rates
