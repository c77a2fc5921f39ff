"""Finds errors in the planner's answer to a question, by the brute force."""

import dataclasses
import itertools
from collections import defaultdict
from fractions import Fraction
from typing import Final

import pytest

from partitiond.core.hardware.partition import way_of
from partitiond.core.model.spec import PlacementRules
from partitiond.core.plan.record import (
    Certificate,
    Infeasible,
    ModelDemand,
    Objective,
    Placement,
    Plan,
    Status,
)
from partitiond.planner.api import PlanRefusedError, solve
from partitiond.planner.model.types import PlanRequest
from partitiond.planner.progress.answer import IMPOSSIBLE, LATE, NOT_FOUND
from partitiond.planner.search import portfolio
from tests.oracle.changes import (
    moves_of_loads,
    moves_of_plan,
    order_of,
    outages,
    price_of_a_move,
    with_starts_alone,
)
from tests.oracle.truth import (
    MOST_LOADS,
    Load,
    Question,
    Value,
    able,
    all_loads,
    best,
    counted,
    lacking,
    load_of,
    plans,
    priorities,
    value_of,
)

SLACK: Final = Fraction(1, 10**6)
"""By which a plan may miss a limit on a sum of floats."""
ROUNDING: Final = Fraction(1, 10**9)
"""Of sums of floats in a certificate."""
ANY: Final = 1_000_000
"""Replicas: more than any least numbers."""
SECONDS: Final = {False: 10.0, True: 2.0}
"""For one question by the clock, as a daemon has by default, or in counted work. Most are proven
optimal in a tenth of a second, or on a busy machine in one."""
LATE_SECONDS: Final = 0.1
"""Below that the clock of a question has passed before anything is asked of the search."""


def ask(question: Question, *, deterministic: bool, large: float = 0) -> Plan | Infeasible | str:
    """The planner's answer with the settings of the product, or why it refused its own plan.

    Args:
        question: the question.
        deterministic: the same answer each time; the product asks by the clock.
        large: as fleets are asked that are too large for CP-SAT: by the search,
            in so many seconds; 0 to ask as what it is.
    """
    request = PlanRequest(
        question.devices,
        question.models,
        objective=question.objective,
        time_limit_seconds=large or SECONDS[deterministic],
        host_memory_bytes=question.host_memory_bytes,
        interference=question.interference,
        deterministic=deterministic,
        running=question.running,
        move_price=question.move_price,
        allow_outage=question.allow_outage,
    )
    with pytest.MonkeyPatch.context() as patch:
        if large:
            patch.setattr(portfolio, "SMALL", 0)
        try:
            return solve(request)
        except PlanRefusedError as error:
            return f"{error}"


def wrong(question: Question, *, deterministic: bool = True, large: float = 0) -> list[str]:
    """Everything that the answer claims and the brute force does not bear out."""
    answer = ask(question, deterministic=deterministic, large=large)
    loads = all_loads(question)
    assert loads is not None, "questions are tiny"
    if isinstance(answer, str):
        return [f"refused: {answer}"]
    there = able(question, loads)
    if isinstance(answer, Infeasible):
        goodput = dataclasses.replace(question, objective=Objective.MAX_GOODPUT)
        asked, most = best(question, loads), best(goodput, loads)
        some = bool(there) and asked is not None and (question.objective.is_cost or any(asked))
        lost = some or (most is not None and any(most))
        return [f"impossible: nothing is placed, {sorted(there)} fit"] if lost else []
    found = [
        *_of_plan(question, loads, there, answer),
        *_of_changes(question, loads, answer),
        *_of_order(question, loads, answer, large > 0),
    ]
    # A plan may be missed where the clock has passed, and the answer says so.
    return [
        line for line in found if not (0 < large < LATE_SECONDS and line.startswith("not found"))
    ]


def _as_held(question: Question, plan: Plan) -> Question:
    """The question with models that are held back as they run, whatever is asked of them."""
    names = {held.model for held in plan.held_back}
    stay = {p.replica_id for p in question.running}

    def held(m: ModelDemand) -> ModelDemand:
        old = [p for p in plan.placements if p.model == m.model and p.replica_id in stay]
        if m.model not in names or not old:
            return m
        return dataclasses.replace(
            m,
            candidates=tuple(dict.fromkeys((*m.candidates, *(p.candidate for p in old)))),
            max_replicas=None,
            rules=PlacementRules(priority=m.rules.priority),
            slo=None,
            isolation_group=max(way_of(p.partition)[1] for p in old) or m.isolation_group,
        )

    return dataclasses.replace(question, models=tuple(held(m) for m in question.models))


def _of_changes(question: Question, loads: list[list[Load]], plan: Plan) -> list[str]:
    """Moves and outages."""
    proof, found = plan.certificate, list[str]()
    if not question.running:
        return found
    if not question.allow_outage and (out := outages(question, plan)):
        found.append(f"outage: {', '.join(sorted(out))}, which is not allowed")
    price = price_of_a_move(dataclasses.replace(question, objective=proof.objective))
    if abs(Fraction(proof.move_price) - price) > ROUNDING * price:
        found.append(f"moves: one costs {float(price):.9g}, not {proof.move_price:.9g}")
    if not price or plan.held_back:
        return found
    made = moves_of_plan(question, plan)
    if made != proof.moves:
        found.append(f"moves: {proof.moves} are claimed, they are {made}")
    if not proof.objective.is_cost:
        return found
    there = able(question, loads)
    priced = [
        value[0] + price * moves_of_loads(question, chosen)
        for chosen in plans(question, loads)
        if (value := value_of(question, chosen, there)) is not None
    ]
    least = min(priced, default=None)
    optimal = proof.status is Status.OPTIMAL and least is not None
    if optimal and least is not None and Fraction(proof.value) - least > SLACK * least:
        found.append(f"optimal: {proof.value:.12g} with moves, the best is {float(least):.12g}")
    return found


def _of_order(question: Question, loads: list[list[Load]], plan: Plan, large: bool) -> list[str]:
    """What is wanted before the objective: no plan does less than what runs, and starts.

    Of a large fleet the best starts are not found for sure: there no plan does less than what runs.
    """
    if question.objective is Objective.MAX_MIN:
        return []
    asked = _as_held(question, plan)
    held = _held(dataclasses.replace(asked, slack=SLACK), plan)
    if held is None:
        return []
    if question.running and not question.allow_outage:
        here = {device.id for device in question.devices}
        number = sum(one.device_id in here for one in question.running) if large else ANY
        ways = (
            way
            for way in with_starts_alone(question, loads)
            if sum(count for load in way for _, count, _ in load.held) <= number
        )
    else:
        there, everything = able(question, loads), dataclasses.replace(question, short=ANY)
        everything = dataclasses.replace(everything, objective=Objective.MAX_GOODPUT)
        ways = (x for x in plans(question, loads) if value_of(everything, x, there) is not None)
    orders = [order_of(question, loads, way) for way in ways]
    if not orders:
        return []
    own, best_order = order_of(question, loads, held), max(orders)
    if own[0] < best_order[0]:
        return [f"missed: {-own[0]} of the least replicas lack, {-best_order[0]} need to"]
    alone = question.running and not question.allow_outage
    if alone and own[0] == best_order[0] and _better(-1, best_order[1], own[1], SLACK):
        return [f"less: {_said(own[1])} is served, starts alone give {_said(best_order[1])}"]
    return []


def _of_plan(
    question: Question, loads: list[list[Load]], there: frozenset[str], plan: Plan
) -> list[str]:
    proof, found = plan.certificate, _unplaced(question, plan)
    asked = best(question, loads)
    said = (IMPOSSIBLE in plan.explanation) + (NOT_FOUND in plan.explanation)
    said += any(sentence.startswith(LATE) for sentence in plan.explanation)
    if proof.objective is not question.objective:
        if asked is not None and not plan.held_back:
            word = "impossible" if IMPOSSIBLE in plan.explanation else "not found"
            found.append(f"{word}: {question.objective} of {_said(asked)}, not {proof.objective}")
        if said != 1 and not plan.held_back:
            found.append(f"fallback: {said} sentences say why it is one")
        question = dataclasses.replace(question, objective=Objective.MAX_GOODPUT)
        asked = best(question, loads)
    elif said:
        found.append("fallback: it is said to be one")
    loose = dataclasses.replace(question, slack=SLACK)
    held = _held(_as_held(loose, plan), plan)
    # Plans that have all least numbers may need an outage.
    kept = asked is None or (question.running and not question.allow_outage)
    if proof.objective is Objective.MAX_GOODPUT and kept and held is not None:
        # Least numbers that nothing holds: of plans that miss as few, where that is said.
        models = [m for m in question.models if m.model in there]
        # Where it misses none, only slack lets it, and its bound speaks of no others.
        missed = lacking(question, models, held)
        short = missed if proof.among or not missed else ANY
        question = dataclasses.replace(question, short=short)
        loose, asked = dataclasses.replace(question, slack=SLACK), best(question, loads)
        fewer = dataclasses.replace(question, short=missed - 1)
        fewest = proof.status is Status.OPTIMAL and missed and not question.running
        if fewest and best(fewer, loads) is not None:
            found.append("short: fewer of the least replicas could be missing")
    value = None if held is None else value_of(_as_held(loose, plan), held, there)
    if value is None:
        # A smallest share has no plan where nothing holds the least numbers.
        none = not question.objective.is_cost and asked is None
        return found if none else [*found, "plan: it breaks a rule or serves too little"]
    claimed, bound = _claims(question, proof)
    if any(
        abs(c - v) > ROUNDING * max(v, Fraction(1, 10**6))
        for c, v in zip(claimed, value, strict=True)
    ):
        found.append(f"value: {_said(claimed)} is claimed, it is {_said(value)}")
    if asked is None:
        return found
    sign = 1 if question.objective.is_cost else -1
    pairs = [*zip(claimed, bound, asked, strict=True)]
    # A bound of a priority is of plans as good for those above, which slack may have made better.
    same = itertools.takewhile(lambda p: p[2] >= p[0] * (1 - SLACK), pairs[:-1])
    spoken_of = pairs[: 1 + len([*same])]
    if any(sign * (b - best) > ROUNDING * best for _, b, best in spoken_of):
        found.append(f"bound: {_said(bound)}, the best is {_said(asked)}")
    if any(sign * (b - c) > ROUNDING * c for c, b, _ in pairs):
        found.append(f"bound: {_said(bound)} is worse than the plan's {_said(claimed)}")
    moved = question.objective.is_cost and proof.move_price > 0  # then with moves: `_of_changes`
    if proof.status is Status.OPTIMAL and not moved:
        count = question.objective is Objective.MIN_DEVICES
        near = Fraction(0) if count else SLACK
        apart = [abs(b - c) > SLACK * max(c, Fraction(1, 10**6)) for c, b, _ in pairs]
        if _better(sign, asked, value, near) or any(apart):
            found.append(
                f"optimal: {_said(value)}, the best is {_said(asked)}, the bound {_said(bound)}"
            )
    # The best of several priorities is exactly that: where one gets a trifle more, lower ones less.
    beyond = value < asked if question.objective.is_cost else value > asked
    # What is held back may run at points that are asked for no more.
    if beyond and not plan.held_back and _better(sign, value, asked, ROUNDING):
        # Slack lets devices hold a little more, which multiplies.
        most = best(loose, all_loads(loose, 100 * MOST_LOADS) or loads)
        if most is None or _better(sign, value, most, ROUNDING):
            found.append(f"value: {_said(value)} is better than the best {_said(asked)}")
    return found


def _claims(question: Question, proof: Certificate) -> tuple[Value, Value]:
    """Value and bound that a certificate claims, in step with `Value`."""
    one = (Fraction(proof.own_value),), (Fraction(proof.own_bound),)
    if proof.objective is not Objective.MAX_GOODPUT:
        return one
    asked = priorities(question.models)
    by = {p.priority: (Fraction(p.value), Fraction(p.bound)) for p in proof.by_priority}
    if not by:  # of one of them at most there is a model that fits
        there = [p for p in asked if _fits_somewhere(question, p)]
        scale = Fraction(100) ** there[0] if there else Fraction(1)
        by = dict.fromkeys(there[:1], (one[0][0] / scale, one[1][0] / scale))
        assert len(there) < 2, "several priorities, and nothing is said of each"
    nothing = Fraction(0), Fraction(0)
    pairs = [by.get(p, nothing) for p in asked]
    return tuple(v for v, _ in pairs), tuple(b for _, b in pairs)


def _fits_somewhere(question: Question, priority: int) -> bool:
    there = able(question, all_loads(question) or [])
    mine = (m for m in counted(question.models) if m.rules.priority == priority)
    return any(m.model in there for m in mine)


def _better(sign: int, one: Value, other: Value, near: Fraction) -> bool:
    """Whether the first difference by more than a share `near` is for the one."""
    for a, b in zip(one, other, strict=True):
        if abs(a - b) > near * max(abs(a), abs(b)):
            return sign * (b - a) > 0
    return False


def _said(value: Value) -> str:
    return " then ".join(f"{float(v):.12g}" for v in value)


def _held(question: Question, plan: Plan) -> tuple[Load, ...] | None:
    """What the devices hold; None where one of them may not."""
    by_name = {m.model: m for m in question.models}
    here: dict[str, list[Placement]] = defaultdict(list)
    for p in plan.placements:
        here[p.device_id].append(p)
    found = []
    for device in question.devices:
        chosen = tuple((by_name[p.model], p.candidate) for p in here[device.id])
        load = load_of(question, device, chosen)
        if load is None:
            return None
        found.append(load)
    return tuple(found)


def _unplaced(question: Question, plan: Plan) -> list[str]:
    """What is said to be missing is what is missing."""
    said = {u.model: u for u in plan.unplaced}
    found = []
    for m in question.models:
        got = next(f.capacity_req_per_s for f in plan.forecasts if f.model == m.model)
        missing = _missing(m, got)
        claim = said[m.model].missing_req_per_s if m.model in said else 0.0
        if missing is None or claim is None:
            continue
        if abs(claim - max(0.0, missing)) > 1e-6 * (m.demand.planned_req_per_s or 0.0):
            found.append(f"unplaced: {m.model} lacks {missing:.9g}, {claim:.9g} is said")
    return found


def _missing(m: ModelDemand, got: float) -> float | None:
    planned = m.demand.planned_req_per_s
    return None if planned is None else planned - got
