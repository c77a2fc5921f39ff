"""Holds the portfolio's answer."""

import dataclasses

from partitiond.core.plan.record import Objective, Status
from partitiond.planner.pack.packing import Packing

IMPOSSIBLE = (
    "Serving everything is proven impossible on these devices; this plan is for the most goodput."
)
NOT_FOUND = (
    "No plan that serves everything was found in the time given, and it is not proven that there "
    "is none; this plan is for the most goodput."
)
"""Either is in the explanation of a plan that fell back and leaves something out."""
LATE = "Everything is served. That was found only at the end of the time"
"""Begins the explanation of one that leaves nothing out."""


@dataclasses.dataclass(frozen=True, slots=True)
class SolveAnswer:
    """The portfolio's answer.

    Attributes:
        packing: the plan.
        objective: the objective that `value` and `bound` belong to.
        proven_impossible: for a fallback from a cost objective: True if serving everything is
            proven impossible, False if it was not found in time; None if this is no fallback.
        best_value: the best value of any member; the plan may be worse in order to move less.
        class_bounds: if models with a priority other than 0 count, each priority with the most
            weighted requests/s that the best plan gives it (`priorities.bounds_of`).
        beside: if this plan has an outage that is not allowed, the best one found without.

    `value`, `bound`, `status` and `best_value` exclude the price of moves.
    """

    packing: Packing
    objective: Objective
    value: float
    bound: float
    status: Status
    method: str
    proven_impossible: bool | None = None
    best_value: float | None = None
    class_bounds: tuple[tuple[int, float], ...] = ()
    beside: Packing | None = None
