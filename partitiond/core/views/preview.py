"""Defines a plan that is shown before it is applied."""

import dataclasses

from partitiond.core.plan.answers import NO_ANSWERS, PlanAnswers
from partitiond.core.plan.record import Infeasible, Plan, PlanDiff


@dataclasses.dataclass(frozen=True, slots=True)
class PlanPreview:
    """A plan (or why there is none), what applying it would change, and what else was asked."""

    plan: Plan
    diff: PlanDiff
    infeasible: Infeasible | None = None
    answers: PlanAnswers = NO_ANSWERS
