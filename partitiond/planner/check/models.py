"""Checks what models were promised."""

import math
from collections.abc import Iterator, Mapping, Sequence

from partitiond.core.plan.record import ModelDemand, ModelForecast, Placement, Unplaced
from partitiond.planner.check.figures import RELATIVE


def check_model(
    demand: ModelDemand,
    replicas: int,
    rate: float,
    excuse: Unplaced | None,
    forecast: ModelForecast | None,
) -> Iterator[str]:
    """Yield violations of one model's demand, numbers and excuse, given its replicas and rate."""
    if demand.max_replicas is not None and replicas > demand.max_replicas:
        yield f"{demand.model} has {replicas} replicas, at most {demand.max_replicas} are wanted"
    if excuse is None and replicas < max(1, demand.min_replicas):
        yield f"{demand.model} has {replicas} replicas and is not listed as unplaced"
    wanted = demand.demand.planned_req_per_s
    missing = 0.0 if wanted is None else wanted - rate
    if excuse is None and wanted is not None and missing > RELATIVE * wanted:
        yield f"{demand.model} gets {rate:.4g} of {wanted:.4g} requests/s and is not unplaced"
    claim = None if excuse is None else excuse.missing_req_per_s
    if claim is not None and abs(claim - max(0.0, missing)) > RELATIVE * (wanted or 0.0):
        yield f"{demand.model} lacks {missing:.4g} requests/s, the plan says otherwise"
    if forecast is None or forecast.replicas != replicas:
        yield f"{demand.model} has {replicas} replicas, its forecast says otherwise"
    elif abs(forecast.capacity_req_per_s - rate) > RELATIVE * rate:
        yield f"{demand.model} gets {rate:.4g} requests/s, its forecast says otherwise"


def check_slo(
    mine: Sequence[Placement], demand: ModelDemand, levels: Mapping[str, float | None]
) -> Iterator[str]:
    """Yield replicas that would miss the bounds of the model's SLO."""
    if demand.slo is None:
        return
    for p in mine:
        level = levels[p.device_id] or math.inf
        if p.candidate.ttft_p95_seconds * level > demand.slo.ttft_seconds * (1 + RELATIVE):
            yield f"{p.replica_id} would miss the TTFT bound of {demand.model} on {p.device_id}"
        if p.candidate.tpot_p95_seconds * level > demand.slo.tpot_seconds * (1 + RELATIVE):
            yield f"{p.replica_id} would miss the TPOT bound of {demand.model} on {p.device_id}"
