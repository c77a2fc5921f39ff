"""The largest common factor of fleets whose places are too many to be listed (`planner.scale`)."""

import contextlib
import math
import time
from collections.abc import Mapping
from typing import Final

import numpy as np

from partitiond.planner.complete import complete
from partitiond.planner.instance import Instance
from partitiond.planner.market.factor import Factor
from partitiond.planner.market.value import HaltedError
from partitiond.planner.packing import Packing
from partitiond.planner.progress import Stop
from partitiond.planner.running import running_packing, staying_items
from partitiond.planner.scale import Means, factor_of, scaled
from partitiond.planner.scale_bound import cap_of
from partitiond.planner.searching import serve_everything
from partitiond.planner.sites import Sites, build_sites

BOUND_SHARE: Final = 0.4
"""Share of the time for the bound, which comes before any plan."""
ROUNDS: Final = 60
"""Rounds for it where the clock may not count."""
SAFETY: Final = 1e-9
BEYOND: Final = 1 + 1e-5
"""Needs are scaled to so much more than any plan's factor: they are rounded down, and what is
beyond a need counts for nothing."""
ROUNDED: Final = 1 + 1e-7
"""Demands are rounded down as well, by a part in 10^8."""


def means(stop: Stop) -> Means:
    """What `planner.scale` asks in vast fleets."""
    return Means(
        serve=lambda instance, seconds: serve_everything(instance, seconds, stop),
        relaxed=lambda instance, target: bound_of(instance, target, stop),
        repaired=lambda instance: complete(
            build_sites(instance), running_packing(instance, staying_items(instance)), stop
        ),
        rest=rest,
        weighted=False,
    )


def bound_of(instance: Instance, target: Mapping[int, float], stop: Stop) -> float:
    """No plan has a larger factor; below 0 where not even the least numbers can be met."""
    if any(need.max_replicas < need.min_replicas for need in instance.needs):
        return -1.0
    most = min(_alone(build_sites(instance), target), cap_of(instance, target) * (1 + SAFETY))
    if not 0 < most < math.inf:
        return most
    request = instance.request
    seconds = math.inf if request.deterministic else BOUND_SHARE * request.time_limit_seconds
    deadline = time.monotonic() + seconds
    sites = build_sites(scaled(instance, target, most * BEYOND))
    try:
        found = Factor(sites, target, halt=lambda: stop() or time.monotonic() > deadline)
    except HaltedError:
        return most
    with contextlib.suppress(HaltedError):
        found.run(deadline, ROUNDS if request.deterministic else 1 << 30)
    return min(most, found.bound * ROUNDED)


def _alone(sites: Sites, target: Mapping[int, float]) -> float:
    """The factor of the model that gets least when each has every device to itself."""
    classes = int(sites.class_of.max(initial=-1)) + 1
    count = np.bincount(sites.class_of, sites.group_count, classes)
    most = np.zeros((len(sites.need_rate), classes))
    full = sites.rates[:, 0].astype(np.float64) * sites.max_items[sites.entry_site]
    np.maximum.at(most, (sites.entry_model, sites.site_class[sites.entry_site]), full)
    sums = most @ count
    shares = [
        sums[n] / target[need.model]
        for n, need in enumerate(sites.instance.needs)
        if need.model in target
    ]
    return float(min(shares, default=math.inf)) * (1 + SAFETY)


def rest(
    instance: Instance, target: Mapping[int, float], packing: Packing, seconds: float, stop: Stop
) -> Packing:
    """What is left goes to whoever wants more; nobody falls below the factor."""
    end = time.monotonic() + (math.inf if instance.request.deterministic else seconds)
    value, grown = factor_of(packing, target), packing.copy()
    grown.instance = instance
    grown = complete(build_sites(instance), grown, lambda: stop() or time.monotonic() > end)
    grown.settle()
    return grown if factor_of(grown, target) >= value * (1 - 1e-6) else packing
