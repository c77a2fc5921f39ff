"""Defines a plan before it is applied, with what applying it would change."""

import dataclasses

from partitiond.core.plan import Infeasible, Plan, PlanDiff
from partitiond.core.plan_answers import NO_ANSWERS, PlanAnswers


@dataclasses.dataclass(frozen=True, slots=True)
class PlanPreview:
    """A plan (or why there is none), what applying it would change, and what else was asked."""

    plan: Plan
    diff: PlanDiff
    infeasible: Infeasible | None = None
    answers: PlanAnswers = NO_ANSWERS
