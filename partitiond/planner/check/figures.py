"""Computes figures that the parts of the checker share."""

import collections
import math
from collections.abc import Iterable, Mapping, Sequence

from partitiond.core.numbers.grouping import by_key
from partitiond.core.performance.interference import Interference, level_of, sigma
from partitiond.core.plan.record import Candidate, Placement

RELATIVE = 1e-6
"""Slack for comparing sums of floats: the solver rounds them outwards, to a hundredth of this."""


def level_together(here: Sequence[Candidate], interference: Interference) -> float | None:
    """Return the level of interference of replicas on one device; None if no level covers it."""
    if not here:
        return 1.0
    mode = here[0].size.mode
    slowed = sigma(mode, [c.busy for c in here], interference, [c.kappa for c in here])
    return level_of(mode, slowed, interference)


def levels_of(
    placements: Iterable[Placement], interference: Interference
) -> dict[str, float | None]:
    """Return the level of interference of each device that holds some of them, by its id."""
    on = by_key((p.device_id, p.candidate) for p in placements)
    return {device: level_together(here, interference) for device, here in on.items()}


def rate_of(p: Placement, levels: Mapping[str, float | None]) -> float:
    """Return the requests/s of one replica."""
    return p.candidate.capacity_req_per_s / (levels[p.device_id] or math.inf)


def rates_of(
    placements: Iterable[Placement], levels: Mapping[str, float | None]
) -> dict[str, float]:
    """Return the requests/s that each model gets."""
    rates: dict[str, float] = collections.defaultdict(float)
    for p in placements:
        rates[p.model] += rate_of(p, levels)
    return rates
