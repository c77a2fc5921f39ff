"""Makes requests for changed worlds, near the current plan, and compares their plans with it."""

import dataclasses
import math
import time

from partitiond.core.errors import PartitiondError
from partitiond.core.plan.answers import Alternative, alternative
from partitiond.core.plan.record import Infeasible, ModelDemand, Objective, Plan
from partitiond.planner.answers.changes import only_forbids, world_under
from partitiond.planner.answers.whatif import Demands, World
from partitiond.planner.model.candidates import asked
from partitiond.planner.model.types import PlanRequest
from partitiond.planner.pack.flow import Outcome, Solving, Steps

VARIATION_SHARE = 0.5
"""Share of the time limit for each further plan, from the current plan. Chosen, not measured."""
LEAST_SECONDS = 0.5
"""Least time limit of such a plan."""


@dataclasses.dataclass(slots=True)
class Variations:
    """Makes the requests for changed worlds, and counts the steps.

    Attributes:
        world, base: the current world, and the request for it.
        plan: the plan for the current world, once there is one.
    """

    world: World
    base: PlanRequest
    demands: Demands
    steps: int
    plan: Plan | None = None
    _until: float = math.inf
    _step: int = 0

    def within(self, seconds: float) -> None:
        """Allow no new plan to be started after these seconds; no limit without a clock."""
        if not self.base.deterministic:
            self._until = time.monotonic() + seconds

    def late(self) -> bool:
        """Return whether that time is over."""
        return time.monotonic() > self._until

    def solve(self, title: str, request: PlanRequest) -> Steps[Outcome]:
        """Yield one step of the flow and return its outcome."""
        self._step += 1
        self.steps = max(self.steps, self._step)
        try:
            outcome = yield Solving(request, title, self._step, self.steps)
        except PartitiondError as error:
            if self._step == 1:
                raise
            # The current plan stands; what cannot be planned beside it reports the reason.
            return Infeasible((error.message,), (error.hint,) if error.hint else ())
        return outcome

    def tried(
        self, text: str, *, share: float = VARIATION_SHARE, asked: bool = True
    ) -> Steps[Alternative]:
        """Solve for the plan under a what-if, and compare it with the current plan.

        Args:
            share: share of the time limit.
            asked: True if the user asks for this plan, which is then kept, and in which moves of
                running replicas have their price. Otherwise it only matters whether all is served.
        """
        world = world_under(text, self.world, self.plan)
        request = self.request(world, share)
        if asked and self.base.running:
            request = dataclasses.replace(request, move_price=self.base.move_price)
        if not asked:
            goal = world.objective if world.objective.is_cost else Objective.MIN_DEVICES
            request = dataclasses.replace(request, objective=goal, all_or_nothing=True)
        outcome = yield from self.solve(text, request)
        found = self.compared(text, outcome, with_plan=asked)
        return dataclasses.replace(found, forbids=only_forbids(text))

    def request(self, world: World, share: float = VARIATION_SHARE) -> PlanRequest:
        """Return the request for a changed world, near the current plan, in a share of its time."""
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
            move_price=0.0,
            allow_outage=True,
        )

    def models(self, world: World) -> tuple[ModelDemand, ...]:
        """Return the demands of a changed world; remake candidates only if they may differ."""
        old = {m.model: m for m in self.base.models}
        specs = {spec.name: spec for spec in self.world.specs}
        same = _kinds(world) == _kinds(self.world)
        # Specs that differ only in what is asked of the model have the same candidates.
        anew = [s for s in world.specs if not same or s.asked_as(specs[s.name]) != specs[s.name]]
        made = {m.model: m for m in self.demands(dataclasses.replace(world, specs=tuple(anew)))}
        return tuple(
            made[spec.name] if spec.name in made else asked(old[spec.name], spec)
            for spec in world.specs
            if spec.name in made or spec.name in old
        )

    def compared(self, change: str, outcome: Outcome, *, with_plan: bool = False) -> Alternative:
        """Compare the outcome with the current plan."""
        placed = () if self.plan is None else self.plan.placements
        return alternative(change, self.plan, outcome, placed, with_plan=with_plan)


def _kinds(world: World) -> set[object]:
    """Return the kinds of device that candidates are made for."""
    return {(d.hardware, d.memory_bytes, d.modes, len(d.cores)) for d in world.devices}
