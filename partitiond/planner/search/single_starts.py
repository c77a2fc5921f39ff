"""Starts replicas beside a plan, one by one, where its models lack something and the checker finds
room.

Packings know how many MIG instances a GPU holds, and no slots: the last replica may fit only if one
that runs leaves its place. Where that is an outage, some of them fit all the same. So whatever made
a plan, what it leaves is looked for once more, beside exactly what the plan holds.
"""

import dataclasses
import itertools
from collections.abc import Collection, Iterator, Sequence
from typing import Final

from partitiond.core.hardware.kinds import Device
from partitiond.core.numbers.grouping import by_key
from partitiond.core.plan.record import MAY_LACK, Candidate, ModelDemand, Placement
from partitiond.planner.check.fault import Fault
from partitiond.planner.check.figures import levels_of, rates_of
from partitiond.planner.check.fits import Fits
from partitiond.planner.check.rules import check_survival
from partitiond.planner.model.types import PlanRequest
from partitiond.planner.search.without_outage import forbidden_outages
from partitiond.planner.stop import Stop

LOOKS: Final = 20_000
"""Looks in vain at most, 4 s without a clock. Each model has an equal share of those that are left,
so that none takes them from the others. Chosen."""


def with_single_starts(
    request: PlanRequest, placements: tuple[Placement, ...], *, idle: bool, stop: Stop
) -> tuple[Placement, ...]:
    """Return the placements and what could be started beside them: least numbers, then demand, each
    by priority. Nothing is served less, kept less after a loss, or out for it.

    Args:
        request: the question; a model may have placements that it does not ask for any more.
        placements: an answer to it.
        idle: True looks only at devices that hold nothing.
        stop: asked before each look; True ends the search with what was found.
    """
    held = {p.device_id for p in placements if idle}
    devices = [d for d in request.devices if not (d.cordoned or d.id in held)]
    ranked = sorted(request.models, key=lambda d: -d.rules.priority)
    looks, turns = LOOKS, [*itertools.product((True, False), ranked)]
    for turn, (least, demand) in enumerate(turns):
        share = looks // (len(turns) - turn)
        looks -= share
        for grown in _starts(request, placements, demand, devices, least=least):
            placements, share = (placements, share - 1) if grown is None else (grown, share)
            if stop() or share < 1:
                break
        looks += share
    return placements


def _starts(
    request: PlanRequest,
    placements: tuple[Placement, ...],
    demand: ModelDemand,
    devices: Sequence[Device],
    *,
    least: bool,
) -> Iterator[tuple[Placement, ...] | None]:
    """Yield the placements, and after each look those with one more of a model, or None if it does
    not fit. A size that was refused is refused on all devices alike, whatever of its model starts.
    """

    def rates_on(here: Sequence[Placement]) -> dict[str, float]:
        return rates_of(here, levels_of(here, request.interference))

    rates, planned = rates_on(placements), demand.demand.planned_req_per_s
    count = sum(p.model == demand.model for p in placements)

    def lacks() -> bool:
        short = planned is None or rates.get(demand.model, 0.0) < planned * (1 - MAY_LACK)
        return count != demand.max_replicas and (count < demand.min_replicas if least else short)

    if not lacks():
        return
    yield placements
    named, memory = {d.model: d for d in request.models}, dict(request.host_memory_bytes)
    fits = Fits(
        request.devices, named, request.interference, memory, placements=placements, rates=rates
    )
    safe = _safe(request, placements) - {demand.model}  # its own first replica cannot be
    taken = {p.replica_id for p in (*placements, *request.running)}
    on = by_key((p.device_id, p) for p in placements)
    for c in sorted(demand.candidates, key=_by_rate):
        refused = set[object]()
        for device in (d for d in devices if d.hardware == c.hardware):
            while lacks() and (kind := fits.alike(device, demand)) not in refused:
                new, here = fits.place(c, device), on[device.id]
                before = rates_on(here)
                after = rates_on((*here, new)) if isinstance(new, Placement) else before
                if isinstance(new, Fault) or after[c.model] <= before.get(c.model, 0.0):
                    refused.add(kind)
                    yield None
                    continue
                new = dataclasses.replace(new, replica_id=_free_name(c.model, taken))
                grown = (*placements, new)
                if forbidden_outages(request, grown) or not safe <= _safe(request, grown):
                    yield None
                    break
                for model, rate in after.items():
                    rates[model] = rates.get(model, 0.0) - before.get(model, 0.0) + rate
                fits.add(new)
                on[device.id].append(new)
                taken.add(new.replica_id)
                placements, count = grown, count + 1
                yield placements


def _safe(request: PlanRequest, placements: tuple[Placement, ...]) -> set[str]:
    """Return the models with `survive` of which enough is left after each loss."""
    models = [m for m in request.models if m.rules.survive is not None]
    if not models:
        return set()  # the most usual case, in which nothing need be summed
    of, levels = (
        by_key((p.model, p) for p in placements),
        levels_of(placements, request.interference),
    )
    devices = {d.id: d for d in request.devices}
    return {m.model for m in models if not any(check_survival(m, of[m.model], devices, levels))}


def _by_rate(c: Candidate) -> tuple[float, int]:
    return -c.capacity_req_per_s, c.memory_bytes


def _free_name(model: str, taken: Collection[str]) -> str:
    return next(name for n in itertools.count(1) if (name := f"{model}-{n}") not in taken)
