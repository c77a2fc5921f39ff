"""Defines the questions that people can ask beyond the plan itself, and the answers, as data."""

import dataclasses
import math
from collections.abc import Iterable

from partitiond.core.plan.costs import idle_watts, max_watts
from partitiond.core.plan.diff import DiffCost
from partitiond.core.plan.record import (
    Certificate,
    Infeasible,
    Objective,
    Placement,
    Plan,
    Status,
    diff_plans,
)

SAME = 1e-6
"""Values this close, as a share of the larger one, count as equal."""


@dataclasses.dataclass(frozen=True, slots=True)
class PlanQuestion:
    """A question to the planner.

    Attributes:
        objective: what the plan is to be good at; None for the setting.
        what_if: changes to plan for as well, each compared with the plan of the present situation.
        explain: a model whose place is to be explained.
        relax: if not everything fits, find what would make all fit.
        move_price: what a move costs (`planner.move_price`); None for the setting.
        allow_outage: models may have no replica for a while as the plan is applied.
    """

    objective: Objective | None = None
    what_if: tuple[str, ...] = ()
    explain: str | None = None
    relax: bool = False
    move_price: float | None = None
    allow_outage: bool = False

    @property
    def is_plain(self) -> bool:
        """Whether the plan itself is made by the settings; further questions do not count."""
        usual = PlanQuestion()
        return usual == dataclasses.replace(self, what_if=(), explain=None, relax=usual.relax)


@dataclasses.dataclass(frozen=True, slots=True)
class PlanProgress:
    """Progress of an answer.

    Attributes:
        title: what is being planned, as "+2 a100-80gb".
        step, steps: position among the plans known to be made; the first one is the plan itself.
        seconds: time since this plan was begun.
        objective: what `value` and `bound` refer to.
        value: of the best plan so far; None before there is one.
        bound: no plan is better than this; None before it is known.
        gap: |bound - value| / max(|value|, 1e-9); None while either is missing.
        method: the method that found the plan, or that is at work.
    """

    title: str
    step: int = 1
    steps: int = 1
    seconds: float = 0.0
    objective: Objective | None = None
    value: float | None = None
    bound: float | None = None
    gap: float | None = None
    method: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class PlanFigures:
    """A plan in a dozen numbers, to put beside another.

    Attributes:
        price_per_hour: of the devices used.
        max_watts: power limits of the devices used; None where one is not known.
        draw_watts: predicted draw at the planned rates, idle draw included; None unknown.
        served_req_per_s: of models with a demand, as far as it is covered.
        wanted_req_per_s: of models with a demand.
        unrated_req_per_s: capacity of models that take as much as there is.
        least_headroom: over models with a demand: capacity / demand - 1, the least.
        unplaced: models that have no place, or not all they want.
    """

    objective: Objective
    status: Status
    value: float
    bound: float
    devices: int
    devices_used: int
    price_per_hour: float
    max_watts: float | None
    draw_watts: float | None
    replicas: int
    served_req_per_s: float
    wanted_req_per_s: float
    least_headroom: float | None
    unplaced: tuple[str, ...]
    seconds: float
    unrated_req_per_s: float = 0.0

    @property
    def served_share(self) -> float:
        """Share of the wanted rate that is served; 1 if nothing with a rate is wanted."""
        return self.served_req_per_s / self.wanted_req_per_s if self.wanted_req_per_s else 1.0


def figures_of(plan: Plan) -> PlanFigures:
    """Return the plan's figures."""
    here = {p.device_id for p in plan.placements}
    used = [device for device in plan.devices if device.id in here]
    rated = [f for f in plan.forecasts if f.demand_req_per_s]
    served = (min(f.capacity_req_per_s, f.demand_req_per_s or 0.0) for f in rated)
    proof = plan.certificate
    return PlanFigures(
        objective=proof.objective,
        status=proof.status,
        value=proof.own_value,
        bound=proof.own_bound,
        devices=len(plan.devices),
        devices_used=len(used),
        price_per_hour=math.fsum(d.price_per_hour for d in used),
        max_watts=_total(max_watts(d) for d in used),
        draw_watts=_total(
            (*(idle_watts(d) for d in used), *(f.watts for f in plan.forecasts if f.replicas))
        ),
        replicas=len(plan.placements),
        served_req_per_s=math.fsum(served),
        wanted_req_per_s=math.fsum(f.demand_req_per_s or 0.0 for f in rated),
        least_headroom=min((f.headroom or 0.0 for f in rated), default=None),
        unplaced=tuple(dict.fromkeys(u.model for u in plan.unplaced)),
        seconds=proof.seconds,
        unrated_req_per_s=math.fsum(
            f.capacity_req_per_s for f in plan.forecasts if not f.demand_req_per_s
        ),
    )


def _total(values: Iterable[float | None]) -> float | None:
    """Return the sum; None if one of the values is not known."""
    found = list(values)
    known = [value for value in found if value is not None]
    return math.fsum(known) if len(known) == len(found) else None


@dataclasses.dataclass(frozen=True, slots=True)
class Alternative:
    """A plan under a change, compared with the plan of what is.

    Attributes:
        change: in the words it can be asked with, as "+2 a100-80gb".
        figures: None where nothing at all can be placed.
        gain: how much better the objective's value is, in its own unit (fewer devices, more
            requests/s); negative where it is worse; None where the two speak of different
            objectives, as when one of them serves everything and the other cannot.
        gain_at_most: what proofs leave open; None where `gain` is exact or unknown.
        priority: the one of which both count weighted requests/s: the highest that differs, where
            models of other priorities than 0 count. Those above get as much in both plans.
        starts, moves, stops: replicas against the plan of what is.
        plan: the plan itself; None where nothing can be placed, and where plans were not asked.
        note: what else is to be known about it.
        forbids: the change only forbids something, so that its plan is one of what is as well.
    """

    change: str
    figures: PlanFigures | None
    gain: float | None = None
    gain_at_most: float | None = None
    priority: int | None = None
    starts: int = 0
    moves: int = 0
    stops: int = 0
    plan: Plan | None = None
    infeasible: Infeasible | None = None
    note: str = ""
    forbids: bool = False

    @property
    def is_no_gain(self) -> bool:
        """Whether the plan is better although its change only forbids something: then the plan of
        the present situation was not the best one."""
        return self.forbids and (self.serves_all if self.gain is None else self.gain > 0)

    @property
    def serves_all(self) -> bool:
        """Whether every model gets all that it asks for."""
        return self.figures is not None and not self.figures.unplaced


@dataclasses.dataclass(frozen=True, slots=True)
class SizeChoice:
    """One size a model could run at on one kind of device.

    Attributes:
        size: key of the partition size, as "mps-20".
        hardware: kind of device.
        req_per_s: of one replica alone on a device, margins applied.
        per_device_req_per_s: the most that one empty device serves with it alone.
        replicas: how many of it the plan holds.
        note: why it is chosen, or what speaks against it.
    """

    size: str
    hardware: str
    batch: int
    variant: str
    memory_bytes: int
    req_per_s: float
    per_device_req_per_s: float
    ttft_p95_seconds: float
    tpot_p95_seconds: float
    replicas: int
    note: str


@dataclasses.dataclass(frozen=True, slots=True)
class ModelExplanation:
    """Why a model has the place it has.

    Attributes:
        here: why these sizes on these devices.
        not_more: why not one replica more.
        sizes: what it could run at, the best per device first.
    """

    model: str
    here: tuple[str, ...]
    not_more: tuple[str, ...]
    sizes: tuple[SizeChoice, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Relaxations:
    """What would make everything fit.

    Attributes:
        note: what else is to be known; empty if every change was tried.
        cheapest: changes after which everything is served, the smallest ones first.
    """

    note: str = ""
    cheapest: tuple[Alternative, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class PlanAnswers:
    """Answers to a `PlanQuestion`, beside the plan itself."""

    diff: DiffCost | None = None
    what_if: tuple[Alternative, ...] = ()
    explanation: ModelExplanation | None = None
    relaxations: Relaxations | None = None


NO_ANSWERS = PlanAnswers()


def alternative(
    change: str,
    base: Plan | None,
    outcome: Plan | Infeasible,
    running: tuple[Placement, ...],
    *,
    with_plan: bool,
) -> Alternative:
    """Compare a plan under a change with the plan of the present situation.

    Args:
        base: plan of the present situation; None if there is none.
        outcome: of the change.
        running: placements against which starts, moves and stops are counted.
        with_plan: keep the whole plan.
    """
    if isinstance(outcome, Infeasible):
        return Alternative(change, None, infeasible=outcome)
    gain, most, priority = _gain(base, outcome)
    diff = diff_plans(running, outcome.placements)
    return Alternative(
        change=change,
        figures=figures_of(outcome),
        gain=gain,
        gain_at_most=most,
        priority=priority,
        starts=len(diff.start),
        moves=len(diff.move),
        stops=len(diff.stop),
        plan=outcome if with_plan else None,
    )


def _gain(base: Plan | None, other: Plan) -> tuple[float | None, float | None, int | None]:
    """By how much `other` is better, by how much at most (proven), and for which priority."""
    if base is None or base.certificate.objective is not other.certificate.objective:
        return None, None, None
    old, new = _by_priority(base.certificate), _by_priority(other.certificate)
    sign = -1.0 if other.certificate.objective.is_cost else 1.0
    found = []
    for priority in sorted({*old, *new}, reverse=True):
        was, now = old.get(priority, (0.0, 0.0)), new.get(priority, (0.0, 0.0))
        gain = 0.0 if math.isclose(now[0], was[0], rel_tol=SAME) else sign * (now[0] - was[0])
        most = sign * (now[1] - was[0])
        # A difference below this share of the values is rounding, which grows with the values.
        trifle = SAME * max(abs(was[0]), abs(now[0]))
        most = 0.0 if abs(most) <= trifle else most
        is_open = most > gain + trifle
        found.append((gain, most if is_open else None, priority if {*old, *new} != {0} else None))
    decides = [one for one in found if one[0]] or [one for one in found if one[1] is not None]
    return (decides or found)[0]


def _by_priority(proof: Certificate) -> dict[int, tuple[float, float]]:
    """Return the value and bound of each priority that counts; under other objectives those of the
    plan.
    """
    by = {p.priority: (p.value, p.bound) for p in proof.by_priority}
    return by or {0: (proof.own_value, proof.own_bound)}
