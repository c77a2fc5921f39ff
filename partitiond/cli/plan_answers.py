"""What was asked beside a plan, below it."""

import dataclasses
from collections.abc import Iterator
from typing import Final

from rich.console import Console, ConsoleOptions, RenderableType
from rich.text import Text

from partitiond.cli.plan_compare import (
    constraints_view,
    infeasible_view,
    relaxations_view,
    what_if_view,
)
from partitiond.cli.plan_explained import explained_view
from partitiond.cli.plan_words import number
from partitiond.core.plan import Infeasible, Objective, Plan
from partitiond.core.plan_answers import Alternative, PlanAnswers

_BEST: Final = {
    Objective.MIN_DEVICES: "Fewest devices",
    Objective.MIN_PRICE: "Least price",
    Objective.MIN_POWER: "Least power",
    Objective.MIN_ENERGY: "Least energy",
}


def fewest_line(plan: Plan, other: Alternative) -> Text:
    """What the best plan would be, and what it would move."""
    if other.figures is None:
        return Text("")
    mine, objective = plan.certificate.own_value, plan.certificate.objective
    counts = (("move", other.moves), ("start", other.starts), ("stop", other.stops))
    words = [f"{n} {word}" + ("" if n == 1 else "s") for word, n in counts if n]
    with_them = ", ".join(words) or "no change"
    return Text(
        f"{_BEST.get(objective, 'Best value')}: {number(other.figures.value)} instead of "
        f"{number(mine)}, with {with_them}: partitiond plan --move-price 0"
    )


def render_answers(
    plan: Plan | None, infeasible: Infeasible | None, answers: PlanAnswers
) -> RenderableType:
    """Everything that was asked beside the plan, for any width from 60 columns."""
    return _Answers(plan, infeasible, answers)


@dataclasses.dataclass(frozen=True, slots=True)
class _Answers:
    plan: Plan | None
    infeasible: Infeasible | None
    answers: PlanAnswers

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterator[RenderableType]:
        """Draw for the width there is."""
        width, answers = min(options.max_width, 140), self.answers
        if self.infeasible is not None:
            yield from infeasible_view(self.infeasible)
        if answers.fewest is not None and self.plan is not None:
            yield fewest_line(self.plan, answers.fewest)
        if answers.explanation is not None:
            yield from explained_view(self.plan, answers.explanation, width)
        if answers.what_if:
            yield from what_if_view(self.plan, answers.what_if, width)
        if answers.constraints:
            yield from constraints_view(self.plan, answers.constraints, width)
        if answers.relaxations is not None:
            yield from relaxations_view(answers.relaxations, width)
