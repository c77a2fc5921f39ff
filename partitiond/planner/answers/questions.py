"""Answers users' questions about a plan: decides which plans to make, in which order.

This module decides and computes nothing else. A flow yields the request to solve or to prove, and
is sent the outcome, so the daemon can run it beside its event loop and the command line without.
"""

import contextlib
import dataclasses
from typing import Any

from partitiond.core.errors import InputError
from partitiond.core.numbers.grouping import by_key
from partitiond.core.plan.answers import Alternative, PlanAnswers, PlanQuestion
from partitiond.core.plan.record import ModelDemand, Plan
from partitiond.planner.answers.changes import parse_changes, world_under
from partitiond.planner.answers.explain_model import explain_model, next_best
from partitiond.planner.answers.relax import relaxations
from partitiond.planner.answers.variations import Variations
from partitiond.planner.answers.whatif import ALL, Demands, World, add_devices, rules_of
from partitiond.planner.model.types import PlanRequest
from partitiond.planner.pack.flow import Enough, Flow, Outcome, Steps

MAX_SINGLE_RULES = 24
"""Limit on rules tried one by one, without kinds of rules that cost nothing at all. Chosen."""
GAIN = 1e-6


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
        others = yield from _next_best(here, model)
        found["explanation"] = dataclasses.replace(found["explanation"], alternatives=others)
    for text in question.what_if:
        one = yield from here.tried(text, asked=True)
        found["what_if"] = (*found.get("what_if", ()), one)
    if question.constraints:
        found["constraints"] = yield from _constraints(here)
    if question.relax and (here.plan is None or here.plan.unplaced):
        found["relaxations"] = yield from relaxations(here, outcome)


def _next_best(here: Variations, model: ModelDemand) -> Steps[tuple[Alternative, ...]]:
    found, name = [], model.model
    choices = [] if here.plan is None else next_best(model, here.plan)
    here.steps += len(choices)
    for title, demand in choices:
        request = here.request(here.world)
        models = tuple(demand if m.model == name else m for m in request.models)
        request = dataclasses.replace(request, models=models)
        found.append(here.compared(title, (yield from here.solve(f"{name}: {title}", request))))
    return tuple(dataclasses.replace(one, forbids=True) for one in found)


def _constraints(here: Variations) -> Steps[tuple[Alternative, ...]]:
    """Drop each kind of rule for all models, then one by one the rules of the kinds that cost."""
    by_kind = by_key((rule, spec.name) for spec in here.world.specs for rule in rules_of(spec))
    here.steps += len(by_kind)
    found, single = list[Alternative](), list[str]()
    for rule, models in by_kind.items():
        target = models[0] if len(models) == 1 else ALL
        costs = yield from here.tried(f"without rule {target}.{rule}")
        found.append(costs)
        if len(models) > 1 and _costs(here, costs):
            single += [f"without rule {name}.{rule}" for name in models]
    here.steps += min(len(single), MAX_SINGLE_RULES)
    for text in single[:MAX_SINGLE_RULES]:
        found.append((yield from here.tried(text)))
    left = len(single) - MAX_SINGLE_RULES
    if left > 0:
        note = f"{left} more rules of these kinds were not tried one by one"
        found[-1] = dataclasses.replace(found[-1], note=note)
    return tuple(sorted(found, key=lambda a: (not _costs(here, a), -(a.gain or 0.0))))


def _costs(here: Variations, without: Alternative) -> bool:
    """Return whether the plan without the rule has a better value, or alone serves everything."""
    unserved = here.plan is None or bool(here.plan.unplaced)
    return (unserved and without.serves_all) or (without.gain or 0.0) > GAIN


def adds_devices(question: PlanQuestion) -> bool:
    """Return whether a what-if asks for more devices, which may be of a kind that is not present.

    A what-if that cannot be parsed is skipped here; `answer` rejects it.
    """
    for text in question.what_if:
        with contextlib.suppress(InputError):
            if any(change.func is add_devices for change in parse_changes(text)):
                return True
    return False
