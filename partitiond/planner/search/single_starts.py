"""Starts replicas beside a plan, one by one, where its models lack something and the checker finds
room.

Packings know how many MIG instances a GPU holds, and no slots: the last replica may fit only if one
that runs leaves its place. Where that is an outage, some of them fit all the same. So whatever made
a plan, what it leaves is looked for once more, beside exactly what the plan holds.
"""

import collections
import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import Final

from partitiond.core.hardware.kinds import Device
from partitiond.core.numbers.grouping import by_key
from partitiond.core.plan.record import MAY_LACK, ModelDemand, Placement, same_engine
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
    grown = _Grown(request, placements)
    for turn, (least, demand) in enumerate(turns):
        share = looks // (len(turns) - turn)
        looks -= share
        for started in grown.starts(demand, devices, least=least):
            share -= not started
            if stop() or share < 1:
                break
        looks += share
    return grown.placements


class _Grown:
    """Placements that more come to, and the sums that tell what their models lack."""

    def __init__(self, request: PlanRequest, placements: tuple[Placement, ...]) -> None:
        self.placements, self._request = placements, request
        self._rates = self._rates_on(placements)
        self._count = collections.Counter(p.model for p in placements)
        self._fits = Fits(
            request.devices,
            {d.model: d for d in request.models},
            request.interference,
            dict(request.host_memory_bytes),
            placements=placements,
            rates=self._rates,
        )
        self._taken = {p.replica_id for p in placements}
        self._ran = by_key(((p.model, p.device_id), p) for p in request.running)
        self._names = self._taken | {p.replica_id for p in request.running}
        self._on = by_key((p.device_id, p) for p in placements)

    def _rates_on(self, here: Sequence[Placement]) -> dict[str, float]:
        return rates_of(here, levels_of(here, self._request.interference))

    def _lacks(self, demand: ModelDemand, *, least: bool) -> bool:
        count, planned = self._count[demand.model], demand.demand.planned_req_per_s
        rate = self._rates.get(demand.model, 0.0)
        short = planned is None or rate < planned * (1 - MAY_LACK)
        return count != demand.max_replicas and (count < demand.min_replicas if least else short)

    def _name(self, new: Placement) -> str:
        """Return the name of the same engine where it runs and would leave, else a free one."""
        ran = (p.replica_id for p in self._ran[new.model, new.device_id] if same_engine(p, new))
        free = (f"{new.model}-{n}" for n in itertools.count(1))
        names = itertools.chain(ran, (name for name in free if name not in self._names))
        return next(name for name in names if name not in self._taken)

    def starts(
        self, demand: ModelDemand, devices: Sequence[Device], *, least: bool
    ) -> Iterator[bool]:
        """Yield before the first look, then after each one whether one more of a model was started.

        A size that was refused is refused on all devices alike, whatever of its model starts.
        """
        if not self._lacks(demand, least=least):
            return
        yield True
        request, fits = self._request, self._fits
        for c in sorted(demand.candidates, key=lambda c: (-c.capacity_req_per_s, c.memory_bytes)):
            refused = set[object]()
            for device in (d for d in devices if d.hardware == c.hardware):
                while (
                    self._lacks(demand, least=least)
                    and (kind := fits.alike(device, demand)) not in refused
                ):
                    new, here = fits.place(c, device), self._on[device.id]
                    before = self._rates_on(here)
                    after = self._rates_on((*here, new)) if isinstance(new, Placement) else before
                    if isinstance(new, Fault) or after[c.model] <= before.get(c.model, 0.0):
                        refused.add(kind)
                        yield False
                        continue
                    new = dataclasses.replace(new, replica_id=self._name(new))
                    grown = (*self.placements, new)
                    # Its own first replica cannot be safe.
                    safe = _safe(request, self.placements) - {demand.model}
                    if forbidden_outages(request, grown) or not safe <= _safe(request, grown):
                        yield False
                        break
                    for model, rate in after.items():
                        more = rate - before.get(model, 0.0)
                        self._rates[model] = self._rates.get(model, 0.0) + more
                    fits.add(new)
                    here.append(new)
                    self._taken.add(new.replica_id)
                    self._count[c.model] += 1
                    self.placements = grown
                    yield True


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
