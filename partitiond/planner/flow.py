"""Flows: what is to be solved or proven next, with what runs them beside a loop or without one."""

import dataclasses
from collections.abc import Awaitable, Callable, Generator
from typing import TypeVar

from partitiond.core.errors import PartitiondError
from partitiond.core.plan import Infeasible, Plan
from partitiond.core.plan_answers import PlanAnswers, PlanProgress
from partitiond.planner.types import PlanRequest


@dataclasses.dataclass(frozen=True, slots=True)
class Solving:
    """A plan to be made; the flow is sent it, or why there is none.

    Attributes:
        title: in the user's words.
        step, steps: how far the flow is, as far as it knows.
    """

    request: PlanRequest
    title: str
    step: int
    steps: int


class Enough(Exception):  # noqa: N818 - no error: what is answered so far is the answer
    """Thrown into a flow to end it once there is a plan."""


T = TypeVar("T")
Outcome = Plan | Infeasible
Answered = tuple[Outcome, PlanAnswers]
Steps = Generator[Solving | PlanRequest, Outcome | bool, T]
"""A part of a flow, and what comes of it. Of a bare request it is to be proven, fast, that not
everything can be served; the flow is sent False where that is unknown."""
Flow = Steps[Answered]


def progress_of(step: Solving, progress: PlanProgress) -> PlanProgress:
    """The solver's progress as part of the whole answer's."""
    return dataclasses.replace(progress, title=step.title, step=step.step, steps=step.steps)


def run_flow(
    flow: Flow,
    solve: Callable[[Solving], Outcome],
    prove: Callable[[PlanRequest], bool],
    enough: Callable[[], bool] = lambda: False,
) -> Answered:
    """Run a flow to its end, one step after the other.

    Args:
        enough: asked after every step; once it says so the flow ends with what is answered.
    """
    step = next(flow)
    try:
        while True:
            try:
                outcome = solve(step) if isinstance(step, Solving) else prove(step)
            except PartitiondError as error:
                step = flow.throw(error)
            else:
                step = flow.send(outcome)
            if enough():
                flow.throw(Enough())
                raise RuntimeError("a flow went on after it was ended")
    except StopIteration as end:
        answered: Answered = end.value
        return answered


async def run_flow_async(
    flow: Flow,
    solve: Callable[[Solving], Awaitable[Outcome]],
    prove: Callable[[PlanRequest], Awaitable[bool]],
) -> Answered:
    """As `run_flow`, beside an event loop."""
    step = next(flow)
    try:
        while True:
            try:
                if isinstance(step, Solving):
                    outcome: Outcome | bool = await solve(step)
                else:
                    outcome = await prove(step)
            except PartitiondError as error:
                step = flow.throw(error)
            else:
                step = flow.send(outcome)
    except StopIteration as end:
        answered: Answered = end.value
        return answered
