"""Answers users' questions about a plan: decides which plans to make, in which order.

This module decides and computes nothing else. A flow yields the request to solve, and is sent the
outcome, so the daemon can run it beside its event loop and the command line without.
"""

import contextlib
from typing import Any

from partitiond.core.errors import InputError
from partitiond.core.plan.answers import PlanAnswers, PlanQuestion
from partitiond.core.plan.record import Plan
from partitiond.planner.answers.changes import parse_changes, world_under
from partitiond.planner.answers.explain_model import explain_model
from partitiond.planner.answers.relax import relaxations
from partitiond.planner.answers.variations import Variations
from partitiond.planner.answers.whatif import Demands, World, add_devices
from partitiond.planner.model.types import PlanRequest
from partitiond.planner.pack.flow import Enough, Flow, Outcome, Steps


def answer(question: PlanQuestion, world: World, base: PlanRequest, demands: Demands) -> Flow:
    """Solve for the plan, then answer the further questions about it.

    Args:
        question: the question; `world` and `base` already have its objective.
        world: the current world, before candidates.
        base: the request for the current world.
        demands: makes the candidates of a changed world.

    Raises:
        InputError: a change, or the model to be explained, is not known. Nothing is solved then.
    """
    for text in question.what_if:
        world_under(text, world)
    if question.explain is not None:
        world.check_model(question.explain)
    here = Variations(world, base, demands, 1 + len(question.what_if))
    outcome = yield from here.solve("the plan", base)
    if isinstance(outcome, Plan):
        here.plan = outcome
    found: dict[str, Any] = {}
    with contextlib.suppress(Enough):
        yield from _beside(question, here, outcome, found)
    return outcome, PlanAnswers(**found)


def _beside(
    question: PlanQuestion, here: Variations, outcome: Outcome, found: dict[str, Any]
) -> Steps[None]:
    """Add each requested answer to `found`, by its name in `PlanAnswers`."""
    if question.explain is not None:
        model = next(m for m in here.base.models if m.model == question.explain)
        found["explanation"] = explain_model(here.base, outcome, model)
    for text in question.what_if:
        one = yield from here.tried(text)
        found["what_if"] = (*found.get("what_if", ()), one)
    if question.relax and (here.plan is None or here.plan.unplaced):
        found["relaxations"] = yield from relaxations(here, outcome)


def adds_devices(question: PlanQuestion) -> bool:
    """Return whether a what-if asks for more devices, which may be of a kind that is not present.

    A what-if that cannot be parsed is skipped here; `answer` rejects it.
    """
    for text in question.what_if:
        with contextlib.suppress(InputError):
            if any(change.func is add_devices for change in parse_changes(text)):
                return True
    return False
