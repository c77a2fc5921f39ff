"""What the portfolio found."""

import dataclasses

from partitiond.core.plan import Objective, Status
from partitiond.planner.packing import Packing


@dataclasses.dataclass(frozen=True, slots=True)
class Found:
    """The portfolio's answer.

    Attributes:
        packing: the plan.
        objective: the level that `value` and `bound` speak of.
        proven_impossible: for a fallback from a cost objective: serving everything is proven
            impossible (True), was not found in time (False); None where it is no fallback.
        first_fit: the objective's value under first-fit decreasing, None where that fails.
        best_value: the best value of any member; the plan may give some away to move less.
    """

    packing: Packing
    objective: Objective
    value: float
    bound: float
    status: Status
    method: str
    proven_impossible: bool | None
    first_fit: float | None
    best_value: float | None = None
