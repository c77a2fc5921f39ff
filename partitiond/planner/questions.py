"""Answers to what people ask of a plan: which plans to make, in which order, and what follows.

Decides and computes nothing else: a flow yields what is to be solved or proven and is sent the
outcome, so that the daemon runs it beside its event loop and the command line without one.
"""

import contextlib
import dataclasses
from collections.abc import Generator
from typing import Any

from partitiond.core.errors import InputError
from partitiond.core.plan import Certificate, Infeasible, Plan, diff_plans
from partitiond.core.plan_answers import (
    NO_ANSWERS,
    Alternative,
    PlanAnswers,
    PlanQuestion,
    alternative,
)
from partitiond.planner.changes import ALL, AddDevices, Change, parse_changes
from partitiond.planner.explain_model import (
    check_model,
    explain_model,
    explain_none,
    next_best,
)
from partitiond.planner.flow import Enough, Flow, Outcome, Proving, Solving
from partitiond.planner.relax import relaxations
from partitiond.planner.types import PlanRequest
from partitiond.planner.variations import VARIATION_SHARE, Variations, rules_of
from partitiond.planner.whatif import Demands, World, world_under

MAX_SINGLE_RULES = 24
"""Rules tried one by one; a kind of rule that costs nothing at all is not."""
GAIN = 1e-6


def answer(question: PlanQuestion, world: World, base: PlanRequest, demands: Demands) -> Flow:
    """The plan, and the answers to what was asked beside it.

    Args:
        question: what is asked; its objective is in `world` and `base` already.
        world: what is, before candidates.
        base: the request of what is.
        demands: makes the candidates of a changed world.

    Raises:
        InputError: a change, or the model to be explained, is not known. Nothing is solved then.
    """
    for text in question.what_if:
        world_under(text, world)
    if question.explain is not None:
        check_model(base, question.explain)
    here = Variations(world, base, demands, 1 + len(question.what_if))
    outcome = yield from here.solve("the plan", base)
    if isinstance(outcome, Plan):
        here.plan = outcome
    found = _Found()
    with contextlib.suppress(Enough):
        yield from _beside(question, here, outcome, found)
    return outcome, found.answers


@dataclasses.dataclass(slots=True)
class _Found:
    """What is answered so far."""

    answers: PlanAnswers = NO_ANSWERS

    def add(self, **answers: Any) -> None:
        self.answers = dataclasses.replace(self.answers, **answers)


def _beside(
    question: PlanQuestion,
    here: Variations,
    outcome: Outcome,
    found: _Found,
) -> Generator[Solving | Proving, Outcome | bool, None]:
    """Everything that is asked beside the plan."""
    if question.fewest and here.plan is not None and _may_be_better(here.plan.certificate):
        found.add(fewest=(yield from _fewest(here, here.plan)))
    if question.explain is not None and here.plan is not None:
        explained = explain_model(here.base, here.plan, question.explain)
        found.add(explanation=explained)
        others = yield from _next_best(here, here.plan, question.explain)
        found.add(explanation=dataclasses.replace(explained, alternatives=others))
    elif question.explain is not None and isinstance(outcome, Infeasible):
        found.add(explanation=explain_none(here.base, outcome, question.explain))
    for text in question.what_if:
        request = here.request(world_under(text, here.world, here.plan), priced=True)
        other = yield from here.solve(text, request)
        one = here.compared(text, other, with_plan=True)
        found.add(what_if=(*found.answers.what_if, one))
    if question.constraints:
        found.add(constraints=(yield from _constraints(here)))
    if question.relax and (here.plan is None or here.plan.unplaced):
        found.add(relaxations=(yield from relaxations(here, outcome)))


def _may_be_better(proof: Certificate) -> bool:
    """Whether a plan that moves more may be worth more by itself."""
    gap = abs(proof.own_value - proof.own_bound)
    return bool(proof.move_price) and gap > GAIN * max(1.0, abs(proof.own_value))


def _fewest(
    here: Variations, plan: Plan
) -> Generator[Solving | Proving, Outcome | bool, Alternative | None]:
    """The best plan whatever it moves, against what runs; None where it gains nothing."""
    seconds = here.base.time_limit_seconds * VARIATION_SHARE
    request = dataclasses.replace(
        here.base,
        move_price=0.0,
        time_limit_seconds=seconds,
        plan_id=f"{here.base.plan_id}.fewest",
    )
    here.steps += 1
    other = yield from here.solve("the same with moves for nothing", request)
    if isinstance(other, Infeasible) or len(other.unplaced) > len(plan.unplaced):
        return None
    diff = diff_plans(here.base.running, other.placements)
    one = alternative("move price 0", plan, other, diff, with_plan=False)
    return one if one.gain is not None and one.gain > GAIN else None


Answers = Generator[Solving | Proving, Outcome | bool, tuple[Alternative, ...]]


def _next_best(here: Variations, plan: Plan, name: str) -> Answers:
    found = []
    choices = next_best(check_model(here.base, name), plan)
    here.steps += len(choices)
    for title, demand in choices:
        request = here.request(here.world)
        models = tuple(demand if m.model == name else m for m in request.models)
        request = dataclasses.replace(request, models=models)
        found.append(here.compared(title, (yield from here.solve(f"{name}: {title}", request))))
    return tuple(found)


# --- what constraints cost ---------------------------------------------------------------------


def _constraints(here: Variations) -> Answers:
    """Each kind of rule dropped for all models; then one by one those of kinds that cost."""
    by_kind: dict[str, list[str]] = {}
    for spec in here.world.specs:
        for rule in rules_of(spec):
            by_kind.setdefault(rule, []).append(spec.name)
    here.steps += len(by_kind)
    found: list[Alternative] = []
    single: list[str] = []
    for rule, models in by_kind.items():
        target = models[0] if len(models) == 1 else ALL
        costs = yield from _dropped(here, f"without rule {target}.{rule}")
        found.append(costs)
        if len(models) > 1 and _costs(here, costs):
            single += [f"without rule {name}.{rule}" for name in models]
    here.steps += min(len(single), MAX_SINGLE_RULES)
    for text in single[:MAX_SINGLE_RULES]:
        found.append((yield from _dropped(here, text)))
    if len(single) > MAX_SINGLE_RULES:
        left = len(single) - MAX_SINGLE_RULES
        note = f"{left} more rules of these kinds were not tried one by one"
        found[-1] = dataclasses.replace(found[-1], note=note)
    return tuple(sorted(found, key=lambda a: (not _costs(here, a), -(a.gain or 0.0))))


def _dropped(
    here: Variations, text: str
) -> Generator[Solving | Proving, Outcome | bool, Alternative]:
    request = here.request(world_under(text, here.world))
    return here.compared(text, (yield from here.solve(text, request)))


def _costs(here: Variations, without: Alternative) -> bool:
    """Whether the plan is better without the rule: by its value, or because all is served."""
    unserved = here.plan is None or bool(here.plan.unplaced)
    if unserved and without.serves_all:
        return True
    return without.gain is not None and without.gain > GAIN


def adds_devices(question: PlanQuestion) -> bool:
    """Whether a what-if asks for more devices: they may be of a kind that is not here."""
    return any(
        isinstance(change, AddDevices) for text in question.what_if for change in _read(text)
    )


def _read(text: str) -> tuple[Change, ...]:
    """As `parse_changes`; nothing for what cannot be read, which `answer` then refuses."""
    try:
        return parse_changes(text)
    except InputError:
        return ()
