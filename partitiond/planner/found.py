"""What the portfolio found."""

import dataclasses

from partitiond.core.plan import Objective, Status
from partitiond.core.plan_choices import Against
from partitiond.core.plan_kinds import OnKinds
from partitiond.planner.packing import Packing

IMPOSSIBLE = (
    "Serving everything is proven impossible on these devices; this plan is for the most goodput."
)
NOT_FOUND = (
    "No plan that serves everything was found in the time given, and it is not proven that there "
    "is none; this plan is for the most goodput."
)
"""One of them is part of the explanation of a plan that fell back and leaves something out."""


@dataclasses.dataclass(frozen=True, slots=True)
class Seen:
    """A plan that could have been taken, by what it is worth and what it moves.

    Attributes:
        value: by itself, in the objective's own unit.
        moves: as `moves.count_of_moves` counts them.
        against: what speaks against it beside its moves.
    """

    packing: Packing
    value: float
    moves: int
    against: Against | None = None


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
        seen: plans that could have been taken, where something runs: none is worse than another
            one and moves more.
        elsewhere: the next best plan on other kinds of device; None where none was found.
        class_bounds: where models of other priorities than 0 count, each of them and the
            most weighted requests/s that the best plan gives it (`priorities.bounds_of`).

    `value`, `bound`, `status` and `best_value` are without that price.
    """

    packing: Packing
    objective: Objective
    value: float
    bound: float
    status: Status
    method: str
    proven_impossible: bool | None = None
    first_fit: float | None = None
    best_value: float | None = None
    compile_seconds: float = 0.0
    priced_bound: float | None = None
    seen: tuple[Seen, ...] = ()
    elsewhere: OnKinds | None = None
    class_bounds: tuple[tuple[int, float], ...] = ()
