"""Fewer candidates of a model, for fleets of so many models that all of them would be too many."""

import dataclasses
from typing import Final

from partitiond.core.plan import Candidate, ModelDemand

SPARE: Final = 2.0
"""A replica alone that takes so many times the whole demand is as good as one that takes more:
what replicas that share a device lose to each other leaves it more than the demand."""
KEPT: Final = 1
"""Candidates that do, kept of each kind of device and way to share it: the one that takes least of
it."""


def leaner(demand: ModelDemand) -> ModelDemand:
    """The demand without candidates that take far more requests/s than are wanted.

    A model without a demanded rate keeps all: it fills what is left over.
    """
    wanted = demand.demand.planned_req_per_s
    if not wanted:
        return demand
    alike: dict[object, list[int]] = {}
    for n, c in enumerate(demand.candidates):
        key = (c.hardware, c.size.mode, c.size.mig_profile, c.variant)
        alike.setdefault(key, []).append(n)
    kept: list[int] = []
    for mine in alike.values():
        mine.sort(key=lambda n: _takes(demand.candidates[n]))
        ample = [n for n in mine if demand.candidates[n].capacity_req_per_s >= SPARE * wanted]
        below = [n for n in mine if demand.candidates[n].capacity_req_per_s < SPARE * wanted]
        kept += below + ample[:KEPT]
    candidates = tuple(demand.candidates[n] for n in sorted(kept))
    return dataclasses.replace(demand, candidates=candidates)


def _takes(c: Candidate) -> tuple[float, ...]:
    return (c.size.sm_percent * c.memory_bytes, c.size.cores, c.memory_bytes)
