"""Flows: what is to be solved or proven next, with what runs them beside a loop or without one."""

import dataclasses
from collections.abc import Awaitable, Callable, Generator
from typing import Protocol

from partitiond.core.errors import PartitiondError
from partitiond.core.plan import Infeasible, Objective, Plan
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


@dataclasses.dataclass(frozen=True, slots=True)
class Proving:
    """Whether it is proven that not everything can be served: fast, and False where unknown."""

    request: PlanRequest


class Enough(Exception):  # noqa: N818 - no error: what is answered so far is the answer
    """Thrown into a flow to end it once there is a plan."""


Outcome = Plan | Infeasible
Answered = tuple[Outcome, PlanAnswers]
Flow = Generator[Solving | Proving, Outcome | bool, Answered]
Plans = Generator[Solving | Proving, Outcome | bool, Outcome]


class SolverProgress(Protocol):
    """What the solver tells while it works: best value and bound so far."""

    @property
    def seconds(self) -> float:
        """Since the solve was begun."""
        ...

    @property
    def objective(self) -> Objective:
        """What value and bound speak of."""
        ...

    @property
    def value(self) -> float | None:
        """Of the best plan so far."""
        ...

    @property
    def bound(self) -> float | None:
        """No plan is better."""
        ...

    @property
    def gap(self) -> float | None:
        """Between the two, as a share of the value."""
        ...

    @property
    def method(self) -> str:
        """What found the plan."""
        ...

    @property
    def compiled(self) -> float | None:
        """Share of the search that is compiled, while that is done; None otherwise."""
        ...


def progress_of(step: Solving, progress: SolverProgress) -> PlanProgress:
    """The solver's progress as part of the whole answer's."""
    return PlanProgress(
        title=step.title,
        step=step.step,
        steps=step.steps,
        seconds=progress.seconds,
        objective=progress.objective,
        value=progress.value,
        bound=progress.bound,
        gap=progress.gap,
        method=progress.method,
        compiled=progress.compiled,
    )


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
    while True:
        try:
            step = flow.send(solve(step) if isinstance(step, Solving) else prove(step.request))
        except PartitiondError as error:
            step = flow.throw(error)
        except StopIteration as end:
            answered: Answered = end.value
            return answered
        if enough():
            return _last(flow, Enough())


def _last(flow: Flow, enough: Enough) -> Answered:
    try:
        flow.throw(enough)
    except StopIteration as end:
        answered: Answered = end.value
        return answered
    raise RuntimeError("a flow went on after it was ended")


async def run_flow_async(
    flow: Flow,
    solve: Callable[[Solving], Awaitable[Outcome]],
    prove: Callable[[PlanRequest], Awaitable[bool]],
) -> Answered:
    """As `run_flow`, beside an event loop."""
    step = next(flow)
    while True:
        try:
            if isinstance(step, Solving):
                step = flow.send(await solve(step))
            else:
                step = flow.send(await prove(step.request))
        except PartitiondError as error:
            step = flow.throw(error)
        except StopIteration as end:
            answered: Answered = end.value
            return answered
