"""Reduces the candidates of a model, for fleets with so many models that all would be too many."""

import dataclasses
from typing import Final

from partitiond.core.plan.record import Candidate, ModelDemand

SPARE: Final = 2.0
"""A single replica with at least this many times the whole demand is as good as a larger one: even
after the losses between replicas that share a device, it serves more than the demand."""
KEPT: Final = 1
"""Ample candidates kept for each kind of device and way to share it: the ones that take the least
of the device."""


def leaner(demand: ModelDemand) -> ModelDemand:
    """Return the demand without candidates that serve far more requests/s than are wanted.

    A model without a demanded rate keeps all candidates, because it fills the capacity left over.
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
