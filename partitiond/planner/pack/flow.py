"""Runs flows, which yield the requests to solve next, with or without an event loop."""

import dataclasses
from collections.abc import Awaitable, Callable, Generator
from typing import TypeVar

from partitiond.core.errors import PartitiondError
from partitiond.core.plan.answers import PlanAnswers, PlanProgress
from partitiond.core.plan.record import Infeasible, Plan
from partitiond.planner.model.types import PlanRequest


@dataclasses.dataclass(frozen=True, slots=True)
class Solving:
    """A plan to be made; the flow is sent the plan, or the reason why there is none.

    Attributes:
        title: title in the user's words.
        step, steps: the flow's progress, as far as the flow knows.
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
Steps = Generator[Solving, Outcome, T]
"""A part of a flow, and its result."""
Flow = Steps[Answered]


def progress_of(step: Solving, progress: PlanProgress) -> PlanProgress:
    """Return the solver's progress as part of the whole answer's progress."""
    return dataclasses.replace(progress, title=step.title, step=step.step, steps=step.steps)


def run_flow(
    flow: Flow,
    solve: Callable[[Solving], Outcome],
    enough: Callable[[], bool] = lambda: False,
) -> Answered:
    """Run a flow to its end, one step after the other.

    Args:
        enough: called after every step; True ends the flow with the answers so far.
    """
    step = next(flow)
    try:
        while True:
            try:
                outcome = solve(step)
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


async def run_flow_async(flow: Flow, solve: Callable[[Solving], Awaitable[Outcome]]) -> Answered:
    """Run a flow like `run_flow`, but in an event loop."""
    step = next(flow)
    try:
        while True:
            try:
                outcome = await solve(step)
            except PartitiondError as error:
                step = flow.throw(error)
            else:
                step = flow.send(outcome)
    except StopIteration as end:
        answered: Answered = end.value
        return answered
