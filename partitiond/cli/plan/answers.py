"""Draws the answers to questions beside a plan, below the plan."""

import dataclasses
from collections.abc import Iterator

from rich.console import Console, ConsoleOptions, RenderableType

from partitiond.cli.plan.compare import (
    constraints_view,
    infeasible_view,
    relaxations_view,
    what_if_view,
)
from partitiond.cli.plan.explained import explained_view
from partitiond.core.plan.answers import PlanAnswers
from partitiond.core.plan.record import Infeasible, Plan


def render_answers(
    plan: Plan | None, infeasible: Infeasible | None, answers: PlanAnswers
) -> RenderableType:
    """All answers beside the plan, for any width from 60 columns."""
    return _Answers(plan, infeasible, answers)


@dataclasses.dataclass(frozen=True, slots=True)
class _Answers:
    plan: Plan | None
    infeasible: Infeasible | None
    answers: PlanAnswers

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterator[RenderableType]:
        """Draw for the available width."""
        width, answers = min(options.max_width, 140), self.answers
        if self.infeasible is not None:
            yield from infeasible_view(self.infeasible)
        if answers.explanation is not None:
            yield from explained_view(self.plan, answers.explanation, width)
        if answers.what_if:
            yield from what_if_view(self.plan, answers.what_if, width)
        if answers.constraints:
            yield from constraints_view(self.plan, answers.constraints, width)
        if answers.relaxations is not None:
            yield from relaxations_view(answers.relaxations, width)
