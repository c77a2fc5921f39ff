"""What the portfolio found."""

import dataclasses

from partitiond.core.plan import Objective, Status
from partitiond.planner.packing import Packing

IMPOSSIBLE = "Serving everything is proven impossible on these devices; this serves the most."
"""Part of the explanation of a plan that leaves something out."""


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
        compile_seconds: went into compiling the search first, once on a machine.
        priced_bound: no plan costs less with the price of its moves, in the unit of `bound`; None
            where nothing better than `bound` is proven of that.

    `value`, `bound`, `status` and `best_value` are without that price.
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
    compile_seconds: float = 0.0
    priced_bound: float | None = None
