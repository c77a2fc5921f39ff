"""What models need, as integers."""

import math

from partitiond.core.interference import TOLERANCE
from partitiond.core.plan import ModelDemand, Objective
from partitiond.core.spec import Isolation
from partitiond.planner.types import RATE_SCALE, Need, PlanRequest


def need_of(index: int, demand: ModelDemand, request: PlanRequest) -> Need:
    """The demand of one model, rounded to the safe side."""
    rate = demand.demand.planned_req_per_s
    # Only for the sake of goodput may a model with a rate be left out altogether.
    optional = rate is not None and request.objective is Objective.MAX_GOODPUT
    return Need(
        model=index,
        name=demand.model,
        rate=0 if rate is None else math.ceil(rate * RATE_SCALE - TOLERANCE),
        min_replicas=max(0 if optional else 1, demand.min_replicas),
        max_replicas=demand.max_replicas if demand.max_replicas is not None else 1_000_000,
        rated=rate is not None,
        isolated=demand.isolation is Isolation.DEVICE,
        weight=demand.demand.weight,
    )
