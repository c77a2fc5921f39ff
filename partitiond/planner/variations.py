"""Requests of changed worlds, near the plan of what is, and what came of them beside it."""

import dataclasses
import math
import time
from collections.abc import Iterator

from partitiond.core.errors import PartitiondError
from partitiond.core.plan import Infeasible, ModelDemand, Plan, diff_plans
from partitiond.core.plan_answers import Alternative, alternative
from partitiond.core.spec import Isolation, ModelSpec
from partitiond.planner.flow import Outcome, Plans, Solving
from partitiond.planner.types import PlanRequest
from partitiond.planner.whatif import Demands, World, without_rule

VARIATION_SHARE = 0.5
"""Of the time limit, for each further plan: it starts from the plan of what is."""
LEAST_SECONDS = 0.5


class Variations:
    """Makes the requests of changed worlds, and counts the steps.

    Attributes:
        world: what is.
        base: the request of what is.
        plan: the plan of what is, once there is one.
    """

    def __init__(self, world: World, base: PlanRequest, demands: Demands, steps: int) -> None:
        self.world = world
        self.base = base
        self.plan: Plan | None = None
        self.steps = steps
        self._until = math.inf
        self._demands = demands
        self._step = 0

    def within(self, seconds: float) -> None:
        """Nothing more is to be begun after so long; without a clock, whenever it is."""
        if not self.base.deterministic:
            self._until = time.monotonic() + seconds

    def late(self) -> bool:
        """Whether that time is over."""
        return time.monotonic() > self._until

    def solve(self, title: str, request: PlanRequest) -> Plans:
        """A step of the flow."""
        self._step += 1
        self.steps = max(self.steps, self._step)
        first = self._step == 1
        try:
            outcome = yield Solving(request, title, self._step, self.steps)
        except PartitiondError as error:
            if first:
                raise
            # The plan of what is stands; what cannot be planned beside it says why.
            return Infeasible((error.message,), (error.hint,) if error.hint else ())
        if isinstance(outcome, bool):
            raise TypeError("a plan was asked for, and a proof was sent")
        return outcome

    def request(
        self, world: World, *, share: float = VARIATION_SHARE, priced: bool = False
    ) -> PlanRequest:
        """The request of a changed world, near the plan of what is.

        Args:
            world: the changed one.
            share: of the time limit.
            priced: whether moves have their price, where something runs that may be moved. What
                two worlds are worth is compared without it.
        """
        running = self.base.running if self.plan is None else self.plan.placements
        here = {device.id for device in world.devices}
        return dataclasses.replace(
            self.base,
            devices=world.devices,
            models=self.models(world),
            objective=world.objective,
            running=tuple(p for p in running if p.device_id in here),
            plan_id=f"{self.base.plan_id}.{self._step}",
            time_limit_seconds=max(LEAST_SECONDS, self.base.time_limit_seconds * share),
            move_price=self.base.move_price if priced and self.base.running else 0.0,
            allow_outage=True,
        )

    def models(self, world: World) -> tuple[ModelDemand, ...]:
        """Demands of a changed world; candidates are made anew only where they may differ."""
        old = {m.model: m for m in self.base.models}
        specs = {spec.name: spec for spec in self.world.specs}
        same = _kinds(world) == _kinds(self.world)
        anew = [s for s in world.specs if not same or not _same_sizes(s, specs[s.name])]
        made = {
            demand.model: demand
            for demand in self._demands(dataclasses.replace(world, specs=tuple(anew)))
        }
        return tuple(
            made[spec.name] if spec.name in made else _asked(old[spec.name], spec)
            for spec in world.specs
            if spec.name in made or spec.name in old
        )

    def compared(
        self, change: str, outcome: Outcome, *, with_plan: bool = False, note: str = ""
    ) -> Alternative:
        """The outcome beside the plan of what is."""
        placed = () if self.plan is None else self.plan.placements
        diff = None if isinstance(outcome, Infeasible) else diff_plans(placed, outcome.placements)
        return alternative(change, self.plan, outcome, diff, with_plan=with_plan, note=note)


def _kinds(world: World) -> set[object]:
    """What candidates are made for."""
    return {(d.hardware, d.memory_bytes, d.modes, len(d.cores)) for d in world.devices}


def _same_sizes(one: ModelSpec, other: ModelSpec) -> bool:
    """Whether both have the same candidates: they differ at most in how much and where."""
    return one.asked_as(other) == other


def _asked(demand: ModelDemand, spec: ModelSpec) -> ModelDemand:
    """The same candidates for what is asked now."""
    return dataclasses.replace(
        demand,
        demand=spec.demand,
        min_replicas=spec.min_replicas,
        max_replicas=spec.max_replicas,
        isolation=spec.isolation,
        rules=spec.rules,
        allow_outage=spec.allow_outage,
    )


def rules_of(spec: ModelSpec) -> Iterator[str]:
    """The rules a model has, by the names that `without rule` takes."""
    rules = spec.rules
    held = {
        "slo": spec.slo is not None,
        "isolation": spec.isolation is not Isolation.SHARED,
        "min_replicas": spec.min_replicas > 0,
        "max_replicas": spec.max_replicas is not None,
        "avoid": bool(rules.avoid),
        "near": bool(rules.near),
        "only_on": bool(rules.only_on),
        "survive": rules.survive is not None,
        "burst": without_rule(spec, "burst").demand != spec.demand,
    }
    return (name for name, there in held.items() if there)
