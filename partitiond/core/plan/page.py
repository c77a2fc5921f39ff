"""Selects what a page shows of a large plan.

All are functions of a plan. A fleet that is not large is shown whole.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Final, TypeVar

from partitiond.core.plan.record import ModelForecast, Plan

T = TypeVar("T")

MANY_MODELS: Final = 50
"""A plan with more models is shown as a page: the table of its models alone would fill one."""
MANY_DEVICES: Final = 50
"""A plan with more devices in use is shown as a page."""


def is_large(plan: Plan) -> bool:
    """Return whether the whole plan would take more than a page."""
    used = len({p.device_id for p in plan.placements})
    return len(plan.forecasts) > MANY_MODELS or used > MANY_DEVICES


def worst_served(forecasts: Iterable[ModelForecast], most: int) -> tuple[ModelForecast, ...]:
    """Order models: without a replica first, then by least headroom; without a rate last.

    Of equally badly served models, the one that lacks the most requests/s comes first.
    """
    return tuple(sorted(forecasts, key=_served)[:most])


def _served(forecast: ModelForecast) -> tuple[bool, float, float, str]:
    spare, wanted = forecast.headroom, forecast.demand_req_per_s or 0.0
    none = math.inf if spare is None else spare
    return forecast.replicas > 0, none, forecast.capacity_req_per_s - wanted, forecast.model


def first_of(items: Sequence[T], unusual: Sequence[bool], most: int) -> tuple[T, ...]:
    """Return at most `most` items, unusual ones first; both sorts keep their order.

    Args:
        items: all items.
        unusual: for each item, whether an operator should look at it.
        most: number of items to show.
    """
    pairs = list(zip(items, unusual, strict=True))
    look = [item for item, odd in pairs if odd]
    return tuple([*look, *(item for item, odd in pairs if not odd)][:most])
