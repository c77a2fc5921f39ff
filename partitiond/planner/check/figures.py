"""What the parts of the checker share."""

import collections
import math
from collections.abc import Mapping

from partitiond.core.hardware import Device
from partitiond.core.interference import Interference, level_of, sigma
from partitiond.core.plan import Placement, Plan

RELATIVE = 1e-6
"""Slack when sums of floats are compared: the solver rounds them outwards, to a hundredth of it."""


def device_level(plan: Plan, device: Device, interference: Interference) -> float | None:
    """The device's level of interference; None where no level covers what is on it."""
    here = plan.on_device(device.id)
    if not here:
        return 1.0
    mode = here[0].candidate.size.mode
    busy, kappas = zip(*((p.candidate.busy, p.candidate.kappa) for p in here), strict=True)
    value = sigma(mode, busy, interference, kappas)
    return level_of(mode, value, interference)


def rate_of(p: Placement, levels: Mapping[str, float | None]) -> float:
    """Requests/s of one replica."""
    return p.candidate.capacity_req_per_s / (levels[p.device_id] or math.inf)


def rates_of(plan: Plan, levels: Mapping[str, float | None]) -> dict[str, float]:
    """Requests/s that each model gets."""
    rates: dict[str, float] = collections.defaultdict(float)
    for p in plan.placements:
        rates[p.model] += rate_of(p, levels)
    return rates
