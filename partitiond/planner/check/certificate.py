"""What the certificate claims."""

import math
from collections.abc import Iterator, Mapping

from partitiond.core.plan import ModelDemand, Objective, Plan, Status
from partitiond.planner.check.figures import ABSOLUTE, RELATIVE


def check_certificate(
    plan: Plan, demands: Mapping[str, ModelDemand], rates: Mapping[str, float]
) -> Iterator[str]:
    """Claims that the plan's own figures do not bear out."""
    proof = plan.certificate
    smallest = proof.objective is Objective.MIN_DEVICES
    value = _cost(plan) if smallest else _goodput(demands, rates)
    slack = ABSOLUTE + RELATIVE * abs(value)
    if abs(value - proof.value) > slack:
        yield f"the certificate's value is {proof.value:.6g}, the plan's is {value:.6g}"
    if (proof.bound - value if smallest else value - proof.bound) > slack:
        yield f"the plan's value {value:.6g} is better than its bound {proof.bound:.6g}"
    gap = abs(proof.bound - proof.value) / max(abs(proof.value), 1e-9)
    if abs(gap - proof.gap) > 1e-6:
        yield f"the certificate's gap is {proof.gap:.6g}, its figures give {gap:.6g}"
    if proof.status is Status.OPTIMAL and gap > 1e-4:
        yield f"the certificate says optimal with a gap of {gap:.2%}"


def _cost(plan: Plan) -> float:
    used = {p.device_id for p in plan.placements}
    return math.fsum(d.price_per_hour for d in plan.devices if d.id in used)


def _goodput(demands: Mapping[str, ModelDemand], rates: Mapping[str, float]) -> float:
    """Weighted planned requests/s; models without a rate count only where none has one."""
    rated = [d for d in demands.values() if d.demand.planned_req_per_s is not None]
    return math.fsum(
        d.demand.weight * min(rates.get(d.model, 0.0), d.demand.planned_req_per_s or math.inf)
        for d in rated or demands.values()
    )
