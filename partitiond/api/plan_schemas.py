"""Defines the body of a plan request."""

from typing import Annotated

from pydantic import ConfigDict, Field

from partitiond.core.plan.answers import PlanQuestion
from partitiond.core.plan.objectives import objectives_told
from partitiond.core.plan.record import MAX_MOVE_PRICE, Objective
from partitiond.fleet.parts import Body
from partitiond.fleet.registration import ModelBody
from partitiond.planner.answers.changes import parse_changes

MAX_WHAT_IF = 32
"""A client that needs more what-ifs should send one request for each."""

MAX_MODELS = 1000
"""A body of so many models has about the largest size that is taken."""

WhatIf = Annotated[str, Field(min_length=1, max_length=500)]

MovePrice = Annotated[float, Field(ge=0, le=MAX_MOVE_PRICE, allow_inf_nan=False)]


class PlanBody(Body):
    """A dry run, and what else is asked of the plan."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {},
                {"objective": "max-goodput"},
                {"what_if": ["+2 a100-80gb", "demand opt-1.3b=50/s", "no mig; lose gpu-3"]},
                {"explain": "opt-1.3b"},
            ]
        }
    )

    objective: Objective | None = Field(
        None,
        description="What the plan is good at; null takes the daemon's setting. "
        f"{objectives_told()}.",
    )
    what_if: Annotated[list[WhatIf], Field(max_length=MAX_WHAT_IF)] = Field(
        [],
        description="Changes to plan for as well, each beside the plan of what is: "
        '"+2 a100-80gb", "-1 h100-80gb", "lose gpu-3", "lose host node-1", "demand NAME=50/s", '
        '"demand NAME*2", "no mig", "only mps", "objective max-min", "without rule NAME.slo", '
        '"without model NAME"; several at once with ";".',
    )
    explain: str | None = Field(None, description="A model whose place is to be explained.")
    relax: bool = Field(False, description="Where not everything fits: what would make it fit.")
    move_price: MovePrice | None = Field(
        None,
        description="What moving a running replica costs, in devices (`planner.move_price`). 0 "
        "moves freely; null takes the daemon's setting.",
    )
    allow_outage: bool = Field(
        False,
        description="Models may have no replica for a while, where old and new do not fit side by "
        "side.",
    )

    models: Annotated[list[ModelBody], Field(max_length=MAX_MODELS)] = Field(
        [],
        description="Plan as if these models were registered so, beside the others. Such a plan "
        "answers nothing else that is asked here but `allow_outage`, and cannot be applied.",
    )

    def to_question(self) -> PlanQuestion:
        """Convert to the service's type. Raises InputError if a what-if cannot be read."""
        for text in self.what_if:
            parse_changes(text)
        return PlanQuestion(
            objective=self.objective,
            what_if=tuple(self.what_if),
            explain=self.explain,
            relax=self.relax,
            move_price=self.move_price,
            allow_outage=self.allow_outage,
        )
